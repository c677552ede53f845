//! Where connections come in: path and subprotocol, kept once for all that have the same.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Where a connection came in. Connections to the same place share one.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: Box<str>,
    pub(crate) subprotocol: Option<Box<str>>,
}

/// The places that connections are at.
#[derive(Debug, Default)]
pub(crate) struct Places(HashSet<Rc<Place>>);

impl Places {
    /// The place that all with this path and subprotocol share: made by the first of them.
    pub(crate) fn enter(&mut self, path: &str, subprotocol: Option<&str>) -> Rc<Place> {
        if let Some(known) = self.0.get(&(path, subprotocol) as &dyn Located) {
            return Rc::clone(known);
        }
        let place = Rc::new(Place { path: path.into(), subprotocol: subprotocol.map(Into::into) });
        self.0.insert(Rc::clone(&place));
        place
    }

    /// Its user, who still has it, is leaving: with the last one it is forgotten.
    pub(crate) fn leave(&mut self, place: &Rc<Place>) {
        if Rc::strong_count(place) == 2 {
            self.0.remove(&**place as &dyn Located);
        }
    }
}

/// What places are told apart by, so that one can be looked up without making one.
trait Located {
    fn parts(&self) -> (&str, Option<&str>);
}

impl Located for Place {
    fn parts(&self) -> (&str, Option<&str>) {
        (&self.path, self.subprotocol.as_deref())
    }
}

impl Located for (&str, Option<&str>) {
    fn parts(&self) -> (&str, Option<&str>) {
        *self
    }
}

impl<'a> Borrow<dyn Located + 'a> for Rc<Place> {
    fn borrow(&self) -> &(dyn Located + 'a) {
        &**self
    }
}

impl Hash for dyn Located + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Located + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Located + '_ {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Place {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shared_while_anybody_is_there() {
        let mut places = Places::default();
        let first = places.enter("/a", None);
        let second = places.enter("/a", None);
        assert!(Rc::ptr_eq(&first, &second));
        for (path, subprotocol) in [("/b", None), ("/a", Some("")), ("/a", Some("x"))] {
            let other = places.enter(path, subprotocol);
            assert!(!Rc::ptr_eq(&first, &other));
            assert_eq!((&*other.path, other.subprotocol.as_deref()), (path, subprotocol));
            places.leave(&other);
        }
        places.leave(&first);
        drop(first);
        assert_eq!(places.0.len(), 1, "somebody is left");
        places.leave(&second);
        assert!(places.0.is_empty());
    }
}
