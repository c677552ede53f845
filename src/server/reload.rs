//! New settings for a running server.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::thread;

use serde::Serialize;
use serde_json::Value;

use super::start::check_settings;
use super::{Remote, StartError};
use crate::config::Config;
use crate::net::mailbox::{Mail, post_to_all};
use crate::net::worker::Settings;

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
    /// Takes up new settings, as far as that can be done while connections are held: limits and origins. Connections
    /// that there are keep to the new limits too, but for age and rate of messages; deadlines that are running end as
    /// they began.
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
        if !self.shared.inherited.is_empty() {
            // The sockets of a service manager took the place of these.
            new.listen.clone_from(&present.listen);
        }
        let mut reloaded = Reloaded::default();
        for name in differences(&*present, &new) {
            match name.as_str() {
                "limits" => reloaded.changed.extend(differences(&present.limits, &new.limits)),
                "origins" => reloaded.changed.push(name),
                _ => reloaded.waiting.push(name),
            }
        }
        present.limits = new.limits;
        present.origins = new.origins;
        let settings =
            Arc::new(Settings { limits: present.limits.clone(), origins: present.origins.clone() });
        post_to_all(&self.shared.mailboxes, &present, || Mail::Settings(Arc::clone(&settings)));
        Ok(reloaded)
    }
}

/// The names of the fields that differ.
fn differences(old: &impl Serialize, new: &impl Serialize) -> Vec<String> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return Vec::new();
    };
    let differing = new.into_iter().filter(|(name, value)| old.get(name) != Some(value));
    differing.map(|(name, _)| name.replace('_', "-")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Origins};

    #[test]
    fn what_differs_is_named_as_the_flags_are() {
        let old = Config::default();
        assert_eq!(differences(&old, &old), [""; 0]);
        let limits = Limits { max_message: 7, queue_hard: 8, ..Limits::default() };
        assert_eq!(differences(&old.limits, &limits), ["max-message", "queue-hard"]);
        let new = Config { limits, origins: Origins::Any, accept_rate: 9, ..Config::default() };
        assert_eq!(differences(&old, &new), ["accept-rate", "limits", "origins"]);
    }
}
