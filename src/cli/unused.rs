//! Settings that are sound, and of no use: nobody who wrote one meant that.

use std::fmt;

use tracing::warn;

use super::Cli;
use super::app::{AppFlags, AppName};

/// Settings that nothing looks at, by their keys. One that is as it is by default is never among them: it does what it
/// says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unused<'a> {
    settings: Vec<&'static str>,
    /// Whose they are; `None` for those of `app` where a file has routes.
    of: Option<(&'a str, AppName)>,
}

impl<'a> Unused<'a> {
    /// All that there are.
    pub(super) fn of(cli: &'a Cli) -> Vec<Self> {
        let mut all = Vec::new();
        if cli.routes.is_empty() {
            all.push(Self::by_app("/", &cli.app, None));
        } else {
            let paths = (!cli.paths.is_empty()).then_some("path");
            let settings = cli.app.given(None).map(|(key, _)| key).chain(paths).collect();
            all.push(Self { settings, of: None });
        }
        all.extend(cli.routes.iter().map(|it| Self::by_app(&it.path, &it.app, it.topic.as_deref())));
        all.retain(|unused| !unused.settings.is_empty());
        all
    }

    fn by_app(path: &'a str, app: &AppFlags, topic: Option<&str>) -> Self {
        let unused = app.given(topic).filter(|(_, is_used)| !is_used);
        Self { settings: unused.map(|(key, _)| key).collect(), of: Some((path, app.name())) }
    }

    /// Says it in the log.
    pub(super) fn warn(&self) {
        let settings = self.settings.join(", ");
        match self.of {
            Some((route, app)) => warn!(settings, route, %app, "settings that the app does not use"),
            None => {
                warn!(settings, "settings that are not used: the file has routes, and they have their own")
            }
        }
    }
}

impl fmt::Display for Unused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings.join(", ");
        match self.of {
            Some((route, app)) => write!(f, "route {route}: its app {app} does not use {settings}"),
            None => write!(f, "{settings}: not used, for the file has routes, and they have their own"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::file::tests::cli_of;

    fn said(text: &str) -> Vec<String> {
        Unused::of(&cli_of(text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_app_has_settings_that_it_does_not_use() {
        let broadcasts =
            "slow-policy = \"latest\"\ngap-notice = \"gap\"\nskip-sender = true\ntopic = \"t\"\n";
        let all = format!("greeting = \"hi\"\nreply = \"<{{}}>\"\n{broadcasts}");
        for (app, unused) in [
            ("chat", "reply"),
            ("broadcast", "reply"),
            ("echo", "skip-sender, slow-policy, gap-notice, topic"),
            ("sink", "reply, skip-sender, slow-policy, gap-notice, topic"),
        ] {
            let route = format!("[[route]]\npath = \"/a\"\napp = \"{app}\"\n");
            assert_eq!(said(&route), [""; 0], "{app}");
            let expected = format!("route /a: its app {app} does not use {unused}");
            assert_eq!(said(&format!("{route}{all}")), [expected]);
        }
    }

    #[test]
    fn what_is_as_it_is_by_default_does_what_it_says() {
        let defaults = "app = \"echo\"\nreply = \"{}\"\nskip-sender = false\nslow-policy = \"close\"\n";
        assert_eq!(said(defaults), [""; 0]);
        assert_eq!(said(&format!("[[route]]\npath = \"/a\"\n{defaults}")), [""; 0]);
        assert_eq!(said(&format!("{}[[route]]\npath = \"/a\"\n", defaults.replace("echo", "chat"))), [""; 0]);
    }

    #[test]
    fn above_routes_nothing_of_an_app_is_used() {
        assert_eq!(said("reply = \"<{}>\""), ["route /: its app chat does not use reply"]);
        let above = "app = \"echo\"\ngreeting = \"hi\"\nreply = \"<{}>\"\npath = [\"/b\"]\nthreads = 2\n";
        assert_eq!(said(above), [""; 0]);
        let both = said(&format!("{above}[[route]]\npath = \"/a\"\nreply = \"!\"\n"));
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].starts_with("app, greeting, reply, path: not used"), "{both:?}");
        assert_eq!(both[1], "route /a: its app chat does not use reply");
    }
}
