//! Workers as processes of their own that are killed and frozen at random moments. What comes out
//! is what an undisturbed run gives.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use explaind::jobs::{
    queue::Queue,
    runner::{Runner, Shutdown},
    store::{Job, JobState},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::{
    databases::{TestDatabase, databases, postgres},
    kinds::{ask, expected, queue},
};

#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Kill,
    Terminate,
    HangUp,
    Stop,
    Continue,
}

pub fn send(process: u32, signal: Signal) {
    let signal = match signal {
        Signal::Kill => libc::SIGKILL,
        Signal::Terminate => libc::SIGTERM,
        Signal::HangUp => libc::SIGHUP,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    // Safe: it takes two numbers.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

/// Files of a process may grow to so many bytes, or to any: what a full disk is to it.
pub fn limit_files(process: u32, bytes: Option<u64>) {
    let limit = libc::rlimit {
        rlim_cur: bytes.unwrap_or(libc::RLIM_INFINITY),
        rlim_max: libc::RLIM_INFINITY,
    };
    // Safe: the limit is read during the call, and nothing is written.
    let set = unsafe {
        libc::prlimit(
            process as i32,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
}

/// This binary again, to run one test that is a process of another.
pub fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .stdin(Stdio::null());
    command
}

/// Takes root's leave to write what modes forbid from a process. Others never had it.
fn obey_modes(command: &mut Command) {
    const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
    // Safe: the call between fork and exec is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0);
            Ok(())
        })
    };
}

const DATA: &str = "EXPLAIND_TEST_WORKER_DATA";
const DATABASE: &str = "EXPLAIND_TEST_WORKER_DATABASE";
/// How many shards it works on at once.
pub const SLOTS: &str = "EXPLAIND_TEST_WORKER_SLOTS";

/// The worker; on its own it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn worker() {
    let Ok(data) = std::env::var(DATA) else {
        return;
    };
    // Safe: no handler runs. Writes beyond a limit then fail, as on a full disk, instead of ending
    // the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    explaind::telemetry::install_tracing("explaind=debug", false).unwrap();
    let models = std::path::Path::new(&data).join("models");
    let app = crate::kinds::start([
        ("models", models.display().to_string()),
        ("data", data),
        ("database", std::env::var(DATABASE).unwrap_or_default()),
        ("lease_ms", "600".to_owned()),
        ("job_slots", std::env::var(SLOTS).unwrap_or("2".to_owned())),
        ("role", "worker".to_owned()),
    ]);
    Runner::new(Queue::new(app, crate::kinds::KINDS))
        .run(&Shutdown::default())
        .await;
}

pub struct Worker {
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Worker {
    pub fn start(database: &TestDatabase) -> Self {
        Self::with(database, |_| ())
    }

    /// With an environment of its own.
    pub fn with(database: &TestDatabase, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = child("processes::worker");
        command
            .env(DATA, database.data.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(url) = &database.url {
            command.env(DATABASE, url);
        }
        obey_modes(&mut command);
        change(&mut command);
        let mut process = command.spawn().unwrap();
        let (log, lines) = (
            Arc::new(Mutex::new(String::new())),
            BufReader::new(process.stderr.take().unwrap()).lines(),
        );
        let written = log.clone();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| *written.lock().unwrap() += &format!("{line}\n"));
        });
        Self { process, log }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn send(&self, signal: Signal) {
        send(self.id(), signal);
    }

    pub fn kill(mut self) {
        self.send(Signal::Kill);
        self.process.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ends(mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(ended) = self.process.try_wait().unwrap() {
                return ended;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{}",
                self.log.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until it is stopped.
    pub async fn stops(&self) {
        let started = Instant::now();
        let is_stopped = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
            // After the name, which is in parentheses.
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        while !is_stopped() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{}",
                self.log.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until its log has one of these.
    pub async fn says(&self, words: &[&str]) {
        self.logs(|log| words.iter().any(|words| log.contains(words)))
            .await;
    }

    /// Until its log has these so many times.
    pub async fn says_often(&self, words: &str, times: usize) {
        self.logs(|log| log.matches(words).count() >= times).await;
    }

    async fn logs(&self, reached: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !reached(&self.log.lock().unwrap()) {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{}",
                self.log.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn reach(queue: &Queue, id: &str, reached: impl Fn(&Job) -> bool) -> Job {
    let started = Instant::now();
    loop {
        let job = queue.job(id).await.unwrap();
        if reached(&job) {
            return job;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "{job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The job has its undisturbed result, and each shard was counted once.
pub async fn check(queue: &Queue, id: &str, shards: u64) {
    let job = reach(queue, id, |job| job.state.is_final()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert_eq!(
        queue.status(id).await.unwrap().result.as_deref(),
        Some(&expected(0, shards))
    );
    let events = queue.events(id, 0, 1000).await.unwrap();
    let done: Vec<_> = events
        .iter()
        .filter(|e| e.kind == "progress")
        .map(|e| e.payload["shards_done"].as_u64().unwrap())
        .collect();
    assert_eq!(done, (1..=shards).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_ten_times_at_random_moments_loses_and_doubles_nothing() {
    const SHARDS: u64 = 40;
    for database in databases().await {
        let queue = queue(&database, &[]);
        let asked = ask(json!({ "shards": SHARDS, "pause_ms": 150 }));
        let (job, _) = queue.submit(asked, None).await.unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(10);
        for _ in 0..10 {
            let worker = Worker::start(&database);
            tokio::time::sleep(Duration::from_millis(random.random_range(150..700))).await;
            worker.kill();
        }
        let worker = Worker::start(&database);
        check(&queue, &job.id, SHARDS).await;
        worker.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_one_may_be_killed_and_one_frozen() {
    const SHARDS: u64 = 30;
    let database = postgres().await;
    let queue = queue(&database, &[]);
    let (job, _) = queue
        .submit(ask(json!({ "shards": SHARDS, "pause_ms": 300 })), None)
        .await
        .unwrap();
    let (killed, frozen) = (Worker::start(&database), Worker::start(&database));
    reach(&queue, &job.id, |job| job.shards_done >= 4).await;
    frozen.send(Signal::Stop);
    killed.kill();
    let fresh = Worker::start(&database);
    // The frozen worker's shards are taken over once its leases have run out.
    reach(&queue, &job.id, |job| job.shards_done >= SHARDS - 4).await;
    frozen.send(Signal::Continue);
    check(&queue, &job.id, SHARDS).await;
    fresh.kill();
    frozen
        .says(&[
            "a late result was refused",
            "stopped: the lease or the job is over",
        ])
        .await;
    frozen.kill();
}

/// A transaction keeps the locks of what it changed: of the job, for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_freezes_in_a_transaction_does_not_stop_the_others() {
    const SHARDS: u64 = 4;
    let database = postgres().await;
    let queue = queue(&database, &[]);
    for point in ["claim::uncommitted", "ack::uncommitted"] {
        let asked = ask(json!({ "shards": SHARDS }));
        let (job, _) = queue.submit(asked, None).await.unwrap();
        let frozen = Worker::with(&database, |command| {
            command
                .env("FREEZE_AT", format!("{point}=2"))
                .env(SLOTS, "1");
        });
        frozen.stops().await;
        let fresh = Worker::start(&database);
        check(&queue, &job.id, SHARDS).await;
        frozen.send(Signal::Continue);
        // It works on, and what it does then counts for nothing.
        let (next, _) = queue
            .submit(ask(json!({ "shards": SHARDS })), None)
            .await
            .unwrap();
        fresh.kill();
        check(&queue, &next.id, SHARDS).await;
        check(&queue, &job.id, SHARDS).await;
        frozen.kill();
    }
}
