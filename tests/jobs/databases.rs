//! The databases that every test runs against: a SQLite file, and a database of its own in a
//! PostgreSQL that this process starts once (as another user where this one is root, which
//! PostgreSQL refuses) and ends with itself.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use explaind::jobs::store::Store;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// An empty database, and the folder that goes with it.
pub struct TestDatabase {
    pub name: &'static str,
    pub data: TempDir,
    pub url: Option<String>,
}

impl TestDatabase {
    pub async fn store(&self) -> Store {
        Store::open(self.url.as_deref(), self.data.path())
            .await
            .unwrap()
    }
}

pub fn sqlite() -> TestDatabase {
    TestDatabase {
        name: "SQLite",
        data: tempfile::tempdir().unwrap(),
        url: None,
    }
}

pub async fn postgres() -> TestDatabase {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let server = tokio::task::spawn_blocking(|| &*SERVER).await.unwrap();
    let name = format!("jobs_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    TestDatabase {
        name: "PostgreSQL",
        data: tempfile::tempdir().unwrap(),
        url: Some(server.url(&name)),
    }
}

/// Set by `make test-fast`, which starts no PostgreSQL.
const SQLITE_ONLY: &str = "SQLITE_ONLY";

/// One of each that is tested.
pub async fn databases() -> Vec<TestDatabase> {
    let mut databases = vec![sqlite()];
    if std::env::var(SQLITE_ONLY).is_err() {
        databases.push(postgres().await);
    }
    databases
}

struct Server {
    folder: PathBuf,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// What is to be ended and removed with this process.
static RUNNING: Mutex<Option<(Child, PathBuf)>> = Mutex::new(None);

extern "C" fn end() {
    if let Some((mut child, folder)) = RUNNING.lock().ok().and_then(|mut running| running.take()) {
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_dir_all(folder);
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let binaries = binaries(&folder);
        let data = folder.join("data");
        let user = (unsafe { libc::geteuid() } == 0).then_some(65_534);
        if let Some(user) = user {
            std::os::unix::fs::chown(&folder, Some(user), Some(user)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(binaries.join(name));
            command
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            command
        };
        let mut initdb = command("initdb");
        initdb
            .args([
                "-U",
                "explaind",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(&data);
        let made = initdb.output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&folder).args([
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=300",
        ]);
        server.args(["-c", "fsync=off"]).stderr(Stdio::null());
        // A thread that never ends, so that the server gets its signal when the process ends, and
        // not before.
        let (sender, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            // Safe: the call between fork and exec is async-signal-safe.
            unsafe {
                server.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT);
                    Ok(())
                })
            };
            sender.send(server.spawn().unwrap()).unwrap();
            loop {
                thread::park();
            }
        });
        *RUNNING.lock().unwrap() = Some((started.recv().unwrap(), folder.clone()));
        assert_eq!(unsafe { libc::atexit(end) }, 0);
        let waiting = Instant::now();
        while !command("pg_isready")
            .arg("-q")
            .arg("-h")
            .arg(&folder)
            .status()
            .unwrap()
            .success()
        {
            assert!(
                waiting.elapsed() < Duration::from_secs(60),
                "PostgreSQL does not start"
            );
            thread::sleep(Duration::from_millis(50));
        }
        Self { folder }
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://explaind@localhost/{database}?host={}",
            self.folder.display()
        )
    }
}

/// Debian's, or those that `scripts/fetch_postgresql.sh` fetched: copied to where any user may
/// read.
fn binaries(folder: &Path) -> PathBuf {
    let mut installed: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin"))
        .filter(|path| path.join("initdb").exists())
        .collect();
    installed.sort();
    if let Some(found) = installed.pop() {
        return found;
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/postgresql");
    assert!(
        fetched.exists(),
        "no PostgreSQL: run scripts/fetch_postgresql.sh, or install Debian's postgresql"
    );
    let copy = folder.join("postgresql");
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(&fetched)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    copy.join("bin")
}
