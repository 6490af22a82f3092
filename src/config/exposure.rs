//! Who can reach the server: a server without keys listens to its own machine, unless it is told
//! that others may use it.

use std::net::IpAddr;

use super::Config;

/// A server without keys that other machines could reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{listen} can be reached from other machines, and the server has no keys: everybody there \
     could use it and see what it keeps. Give it a key, as \
     CANDOR_API_KEY in the environment, in a file (--key-file FILE, CANDOR_API_KEY_FILE) or as a \
     [[keys]] table in the configuration (`candor keys new` \
     makes one); or listen at 127.0.0.1; or let everybody in with --insecure (server.insecure = \
     true)"
)]
pub struct ExposedServer {
    /// Address at which it would listen.
    listen: String,
}

impl Config {
    /// Returns `true` if other machines may reach the API. Names other than `localhost` count as
    /// addresses of such, whatever they stand for.
    pub fn is_exposed(&self) -> bool {
        let host = self
            .server
            .listen
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => !address.to_canonical().is_loopback(),
            Err(_) => !host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Checks that a server that other machines may reach has keys, or is meant to have none.
    ///
    /// # Errors
    /// When it has none, and `server.insecure` is off.
    pub fn check_exposure(&self) -> Result<(), ExposedServer> {
        let is_safe = !self.keys.is_empty() || self.server.insecure || !self.is_exposed();
        is_safe.then_some(()).ok_or_else(|| ExposedServer {
            listen: self.server.listen.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn listening(listen: &str) -> Config {
        let mut config = Config::default();
        config.server.listen = listen.to_owned();
        config
    }

    #[test]
    fn loopback_alone_is_not_exposed() {
        for own in [
            "127.0.0.1:8080",
            "127.9.9.9:0",
            "[::1]:80",
            "localhost:80",
            "LocalHost:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(listening(own).check_exposure(), Ok(()), "{own}");
        }
        for open in [
            "0.0.0.0:8080",
            "[::]:0",
            "10.0.0.1:80",
            "[::ffff:0.0.0.0]:80",
            "[fe80::1]:80",
            "candor.example.org:80",
            "localhost.example.org:80",
        ] {
            let error = listening(open).check_exposure().unwrap_err().to_string();
            for said in [
                open,
                "CANDOR_API_KEY",
                "CANDOR_API_KEY_FILE",
                "--key-file",
                "candor keys new",
                "--insecure",
            ] {
                assert!(error.contains(said), "{error}");
            }
        }
    }

    #[test]
    fn keys_or_a_word_for_it_let_a_server_be_exposed() {
        let mut config = listening("0.0.0.0:80");
        config.keys = vec![ApiKey::new("app", "a-key-of-some-length")];
        assert_eq!(config.check_exposure(), Ok(()));
        config.keys.clear();
        config.admin.key_sha256 = "ab".repeat(32);
        assert!(
            config.check_exposure().is_err(),
            "the administrator's key does not close the API"
        );
        config.server.insecure = true;
        assert_eq!(config.check_exposure(), Ok(()));
    }
}
