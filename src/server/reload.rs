//! New settings for a running server.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::thread;

use serde::Serialize;
use serde_json::Value;

use super::service;
use super::start::check_settings;
use super::{Remote, StartError};
use crate::config::{Config, RouteLimits};
use crate::net::mailbox::{Mail, post_to_all};
use crate::net::worker::Settings;
use crate::route::Router;

/// Stands behind addresses where sockets were passed: to those no setting gives another one, and no restart.
const OF_PASSED: &str = " (a passed socket's address is changed in its .socket unit)";

/// What came of a [`Remote::reload`], by the names of the settings as flags have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Settings that are new, and in force.
    pub changed: Vec<String>,
    /// Settings that are new, and will be in force after a restart.
    pub waiting: Vec<String>,
}

/// Takes up new settings when that is asked for.
pub(super) struct Source(pub(super) Box<Reload>);

type Reload = dyn FnMut(&Remote) -> Result<Reloaded, String> + Send;

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Remote {
    /// Takes out of settings the addresses that passed sockets take the place of, as [`Builder::service_manager`] did at
    /// the start. Settings that are read again need it before [`reload`](Self::reload), or their addresses are new ones.
    ///
    /// [`Builder::service_manager`]: crate::Builder::service_manager
    pub fn give_way(&self, config: &mut Config) {
        service::take_the_place(&self.shared.inherited, config);
    }

    /// Takes up new settings, as far as that can be done while connections are held: limits, those of routes included,
    /// and origins. Connections that there are keep to the new limits too, but for their age; deadlines that are
    /// running end as they began, but for those of pings where there are to be none. Limits of routes that there are not
    /// wait for a restart, and so does what else is not as it is in force, such as addresses.
    ///
    /// # Errors
    /// Settings that cannot be; nothing is changed.
    pub fn reload(&self, config: &Config) -> Result<Reloaded, StartError> {
        check_settings(config, &self.shared.inherited)?;
        let mut new = config.clone();
        if new.threads == 0 {
            new.threads = thread::available_parallelism().map_or(1, usize::from);
        }
        let mut present = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reloaded = Reloaded::default();
        for name in differences(&*present, &new) {
            match name.as_str() {
                "limits" => reloaded.changed.extend(differences(&present.limits, &new.limits)),
                "route-limits" => of_routes(&present, &new, &self.shared.router, &mut reloaded),
                "origins" => reloaded.changed.push(name),
                "tls" => reloaded.waiting.extend(of_tls(&present, &new)),
                _ => reloaded.waiting.push(name),
            }
        }
        if !self.shared.inherited.is_empty() {
            let addresses = |name: &&mut String| ["listen", "tls-listen"].contains(&name.as_str());
            reloaded.waiting.iter_mut().filter(addresses).for_each(|name| name.push_str(OF_PASSED));
        }
        new.route_limits.retain(|route, _| self.shared.router.check_name(route).is_ok());
        present.limits = new.limits;
        present.route_limits = new.route_limits;
        present.origins = new.origins;
        let settings = Arc::new(Settings::of(&present, &self.shared.router));
        post_to_all(&self.shared.mailboxes, &present, || Mail::Settings(Arc::clone(&settings)));
        Ok(reloaded)
    }
}

/// The settings of TLS that differ. Without it there are no addresses for it, and no certificates.
fn of_tls(present: &Config, new: &Config) -> impl Iterator<Item = String> + use<> {
    let [old, new] = [present, new].map(|config| config.tls.clone().unwrap_or_default());
    let names =
        [("tls-listen", old.listen != new.listen), ("tls-cert", old.certificates != new.certificates)];
    names.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned())
}

/// The limits of routes that differ, as `max-message of /chat`.
fn of_routes(present: &Config, new: &Config, router: &Router, reloaded: &mut Reloaded) {
    let none = RouteLimits::default();
    let routes: BTreeSet<_> = present.route_limits.keys().chain(new.route_limits.keys()).collect();
    for route in routes {
        let [old, new] = [present, new].map(|config| config.route_limits.get(route).unwrap_or(&none));
        let names = differences(old, new).into_iter().map(|name| format!("{name} of {route}"));
        if router.check_name(route).is_ok() {
            reloaded.changed.extend(names);
        } else {
            reloaded.waiting.extend(names);
        }
    }
}

/// The names of the fields that differ, or that only one of them has.
fn differences(old: &impl Serialize, new: &impl Serialize) -> Vec<String> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return Vec::new();
    };
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let differing = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    differing.map(|name| name.replace('_', "-")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::apps::Echo;
    use crate::config::{CertificateFiles, Limits, Origins, RouteOptions, Tls};

    #[test]
    fn what_differs_is_named_as_the_flags_are() {
        let old = Config::default();
        assert_eq!(differences(&old, &old), [""; 0]);
        let limits = Limits { max_message: 7, queue_hard: 8, ..Limits::default() };
        assert_eq!(differences(&old.limits, &limits), ["max-message", "queue-hard"]);
        let new = Config { limits, origins: Origins::Any, accept_rate: 9, ..Config::default() };
        assert_eq!(differences(&old, &new), ["accept-rate", "limits", "origins"]);
    }

    #[test]
    fn of_tls_addresses_and_certificates_are_named() {
        let files = |name: &str| CertificateFiles { certificate: name.into(), key: name.into() };
        let with = |listen: &str, name: &str| {
            let tls = Tls { listen: vec![listen.to_owned()], certificates: vec![files(name)] };
            Config { tls: Some(tls), ..Config::default() }
        };
        let (none, old) = (Config::default(), with("localhost:1", "a.pem"));
        for (new, expected) in [
            (&old, &[][..]),
            (&with("localhost:2", "a.pem"), &["tls-listen"]),
            (&with("localhost:1", "b.pem"), &["tls-cert"]),
            (&none, &["tls-listen", "tls-cert"]),
        ] {
            assert_eq!(of_tls(&old, new).collect::<Vec<_>>(), expected);
            assert_eq!(of_tls(new, &old).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn limits_of_routes_are_named_with_their_routes() {
        let mut router = Router::default();
        for route in ["/a", "/b"] {
            router
                .add(route, RouteOptions::default(), Arc::new(|| Box::new(Echo::default())))
                .expect("valid");
        }
        let config = |limits: &[(&str, RouteLimits)]| {
            let route_limits = limits.iter().map(|(route, own)| ((*route).to_owned(), own.clone())).collect();
            Config { route_limits, ..Config::default() }
        };
        let small = RouteLimits { max_message: Some(7), ..RouteLimits::default() };
        let other =
            RouteLimits { max_message: Some(8), max_age: Some(Duration::ZERO), ..RouteLimits::default() };
        let present = config(&[("/a", small.clone()), ("/b", small.clone())]);
        let new = config(&[("/a", other), ("/c", small)]);
        let mut reloaded = Reloaded::default();
        of_routes(&present, &new, &router, &mut reloaded);
        assert_eq!(reloaded.changed, ["max-age of /a", "max-message of /a", "max-message of /b"]);
        assert_eq!(reloaded.waiting, ["max-message of /c"]);
    }
}
