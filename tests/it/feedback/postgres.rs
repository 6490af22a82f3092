//! Temporary PostgreSQL server in a directory that is removed with it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use sqlx::{ConnectOptions, Connection, Executor, postgres::PgConnectOptions};
use tempfile::TempDir;

use crate::{served::eventually, support::needed};

/// A running server.
pub struct Postgres {
    child: Child,
    port: u16,
    databases: AtomicUsize,
    _folder: TempDir,
}

impl Postgres {
    /// Starts a server; `None` if PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let programs = needed("PostgreSQL", programs())?;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        if is_root() {
            // PostgreSQL refuses to run as root; its packages create a user for it.
            for path in [folder.path(), &data] {
                assert!(
                    Command::new("chown")
                        .arg("postgres")
                        .arg(path)
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        let made = as_user(&programs.join("initdb"))
            .args([
                "--auth=trust",
                "--username=candor",
                "--encoding=UTF8",
                "--pgdata",
            ])
            .arg(&data)
            .current_dir(folder.path())
            .output();
        let made = made.unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = as_user(&programs.join("postgres"))
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-k",
                "",
                "-p",
                &port.to_string(),
                "-D",
            ])
            .arg(&data)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            port,
            databases: AtomicUsize::new(0),
            _folder: folder,
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        eventually("PostgreSQL takes connections", || {
            runtime.block_on(server.options().connect()).is_ok()
        });
        Some(server)
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("candor")
            .database("postgres")
    }

    /// The URL of a new database.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, SeqCst));
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut connection = self.options().connect().await.unwrap();
            connection
                .execute(&*format!("CREATE DATABASE {name}"))
                .await
                .unwrap();
            connection.close().await.unwrap();
        });
        format!("postgres://candor@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let _ = self.child.wait();
    }
}

/// Directory of `initdb` and `postgres`: in `PATH` or, as on Debian, elsewhere.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    std::env::split_paths(&path)
        .chain(versions)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

fn is_root() -> bool {
    geteuid().is_root()
}

fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .arg(program);
    command
}
