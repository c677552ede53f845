//! Which app a path belongs to.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use crate::app::App;
use crate::config::RouteOptions;

/// Routes have numbers of 16 bits; one of those left stands for none yet, and one for what is no connection's.
const ROUTES_MAX: usize = u16::MAX as usize - 1;

/// Makes one app value for each worker, on the worker's own thread.
pub(crate) type Factory = Arc<dyn Fn() -> Box<dyn App> + Send + Sync>;

/// The routes of a server.
#[derive(Clone, Default)]
pub(crate) struct Router {
    patterns: Vec<Pattern>,
    /// The patterns as they were written.
    names: Vec<String>,
    factories: Vec<Factory>,
    options: Vec<RouteOptions>,
}

/// Something of each route, by number, and last of connections that have none yet.
#[derive(Clone, Debug)]
pub(crate) struct ByRoute<T>(Box<[T]>);

impl<T> ByRoute<T> {
    /// Those of all routes, and of none.
    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T> FromIterator<T> for ByRoute<T> {
    fn from_iter<I: IntoIterator<Item = T>>(each: I) -> Self {
        Self(each.into_iter().collect())
    }
}

impl<T> Index<u16> for ByRoute<T> {
    type Output = T;

    fn index(&self, route: u16) -> &T {
        &self.0[usize::from(route)]
    }
}

/// A path as it stands, or with `{name}` for any one segment that is not empty, or `*` as the last segment for
/// whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
    Rest,
}

/// A route that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRoute(String);

impl fmt::Display for InvalidRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRoute {}

impl Router {
    /// Adds a route. Where several match, a literal one wins over a pattern, and then the first one added.
    pub(crate) fn add(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        factory: Factory,
    ) -> Result<(), InvalidRoute> {
        let name = pattern.to_owned();
        let pattern = Pattern::parse(pattern)?;
        if self.names.len() >= ROUTES_MAX {
            return Err(InvalidRoute(format!("there can be at most {ROUTES_MAX} routes")));
        }
        if self.patterns.contains(&pattern) {
            return Err(InvalidRoute(format!("route {pattern} stands twice")));
        }
        self.patterns.push(pattern);
        self.names.push(name);
        self.factories.push(factory);
        self.options.push(options);
        Ok(())
    }

    /// The index of the app for a path.
    pub(crate) fn find(&self, path: &str) -> Option<u16> {
        let literal = self.patterns.iter().position(|pattern| pattern.is_literal() && pattern.matches(path));
        let found = literal.or_else(|| self.patterns.iter().position(|pattern| pattern.matches(path)));
        found.map(|index| index as u16)
    }

    /// The number of connections that have no route yet.
    pub(crate) fn none(&self) -> u16 {
        self.names.len() as u16
    }

    /// Whether there is a route that was written so.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), InvalidRoute> {
        let known = self.names.iter().any(|known| known == name);
        known
            .then_some(())
            .ok_or_else(|| InvalidRoute(format!("there are limits for `{name}`, which is no route")))
    }

    /// What is special about each route, by index.
    pub(crate) fn options(&self) -> &[RouteOptions] {
        &self.options
    }

    /// The routes as they were written, by index.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// One value of each app, by index.
    pub(crate) fn apps(&self) -> Vec<Box<dyn App>> {
        self.factories.iter().map(|factory| factory()).collect()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.patterns).finish()
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidRoute> {
        let invalid = |why: &str| Err(InvalidRoute(format!("route `{text}` {why}")));
        let Some(path) = text.strip_prefix('/') else { return invalid("does not start with /") };
        if text.contains(['?', '#', ' ']) {
            return invalid("is no path: ?, # and spaces do not belong there");
        }
        let count = path.split('/').count();
        let mut segments = Vec::with_capacity(count);
        for (index, segment) in path.split('/').enumerate() {
            segments.push(match segment {
                "*" if index + 1 == count => Segment::Rest,
                "*" => return invalid("has a * that is not its last segment"),
                name if name.starts_with('{') && name.ends_with('}') && name.len() > 2 => Segment::Any,
                name if name.contains(['{', '}', '*']) => return invalid("has a pattern inside a segment"),
                name => Segment::Literal(name.to_owned()),
            });
        }
        Ok(Self(segments))
    }

    fn is_literal(&self) -> bool {
        self.0.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        for segment in &self.0 {
            match (segment, parts.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                (Segment::Literal(literal), Some(part)) if literal == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.0 {
            f.write_str("/")?;
            f.write_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Any => "{}",
                Segment::Rest => "*",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl App for Nothing {}

    fn router(patterns: &[&str]) -> Router {
        let mut router = Router::default();
        for pattern in patterns {
            router.add(pattern, RouteOptions::default(), Arc::new(|| Box::new(Nothing))).expect("valid");
        }
        router
    }

    #[test]
    fn literal_before_pattern_before_rest() {
        let router = router(&["/rooms/{room}", "/rooms/vip", "/", "/any/*"]);
        for (path, index) in [
            ("/", Some(2)),
            ("/rooms/a", Some(0)),
            ("/rooms/vip", Some(1)),
            ("/rooms/", None),
            ("/rooms", None),
            ("/rooms/a/b", None),
            ("/any/a/b", Some(3)),
            ("/any/", Some(3)),
            ("/any", None),
            ("/nope", None),
            ("", None),
        ] {
            assert_eq!(router.find(path), index, "{path}");
        }
        assert_eq!(router.apps().len(), 4);
    }

    #[test]
    fn routes_that_cannot_be() {
        for pattern in ["echo", "", "/a?b", "/a{b}", "/*/a", "/a b", "/{}"] {
            let mut router = Router::default();
            assert!(
                router.add(pattern, RouteOptions::default(), Arc::new(|| Box::new(Nothing))).is_err(),
                "{pattern}"
            );
        }
        let mut router = router(&["/a"]);
        assert!(router.add("/a", RouteOptions::default(), Arc::new(|| Box::new(Nothing))).is_err());
    }

    #[test]
    fn a_connection_without_a_route_has_a_number_of_its_own() {
        let router = router(&["/a", "/rooms/{room}"]);
        assert_eq!((router.none(), router.find("/nope")), (2, None));
        assert!(router.check_name("/rooms/{room}").is_ok());
        assert!(router.check_name("/rooms/a").is_err_and(|error| error.to_string().contains("`/rooms/a`")));
    }
}
