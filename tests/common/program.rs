//! The `wsd` program as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, PATIENCE, wait_until};

/// `wsd` with these arguments, and none of the settings that this process may have in its environment.
pub(crate) fn wsd(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_wsd")));
    command.args(args);
    command
}

/// A socket that somebody could pass to it, and its address.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

pub(crate) fn copy(socket: &TcpListener) -> TcpListener {
    socket.try_clone().expect("a descriptor")
}

/// `wsd` with `socket` as the first one that is passed to it. The shell knows the number of the process to be, and
/// takes the socket from its standard input to where it belongs.
pub(crate) fn activated(socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    activated_as("web", socket, arguments)
}

/// The same for a socket of this name.
pub(crate) fn activated_as(name: &str, socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    activated_by("exec 3<&0 0</dev/null; LISTEN_FDS=1", name, socket, arguments)
}

fn activated_by(script: &str, names: &str, socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!(r#"{script} LISTEN_PID=$$ LISTEN_FDNAMES={names} exec "$0" "$@""#);
    command.args(["-c", &script, env!("CARGO_BIN_EXE_wsd")]).args(arguments);
    let mut command = clean(command);
    command.stdin(Stdio::from(socket.into()));
    command
}

/// A command that inherits none of the program's settings, and no input.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WSD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a program that is expected to end by itself.
pub(crate) fn run(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let program = Program { child: Some(child), ready: String::new() };
    program.output()
}

/// A `wsd` that serves. Dropping it kills it.
pub(crate) struct Program {
    child: Option<Child>,
    /// The line that it printed when it was ready.
    pub(crate) ready: String,
}

impl Program {
    /// Starts it, and waits for its line.
    #[track_caller]
    pub(crate) fn start(command: Command) -> Self {
        Self::start_with_log(command, Stdio::piped())
    }

    /// The same, with somewhere else for its log.
    #[track_caller]
    pub(crate) fn start_with_log(mut command: Command, log: Stdio) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it can be started");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("piped");
        // The end of its standard output is closed with the reader: that must not matter to it.
        BufReader::new(stdout).read_line(&mut ready).expect("its output is readable");
        let program = Self { child: Some(child), ready };
        assert!(program.ready.starts_with("wsd ready on http"), "{:?}", program.output());
        program
    }

    /// Starts `wsd` with two sockets that are passed to it, with these names. The second comes as its standard error,
    /// so its log goes where its line goes.
    #[track_caller]
    pub(crate) fn activated(names: &str, sockets: [TcpListener; 2], arguments: &[&str]) -> Self {
        let [first, second] = sockets.map(OwnedFd::from);
        let script = "exec 3<&0 4<&2 0</dev/null 2>&1; LISTEN_FDS=2";
        Self::start_with_log(activated_by(script, names, first, arguments), Stdio::from(second))
    }

    /// Starts `wsd` with these arguments on a free port of 127.0.0.1.
    #[track_caller]
    pub(crate) fn serve(args: &[&str]) -> Self {
        Self::start(wsd(&[&["--listen", "127.0.0.1:0"], args].concat()))
    }

    /// The addresses of its line.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses_of("http://")
    }

    /// Those of listeners with TLS.
    pub(crate) fn secure_addresses(&self) -> Vec<SocketAddr> {
        self.addresses_of("https://")
    }

    fn addresses_of(&self, scheme: &str) -> Vec<SocketAddr> {
        let words = self.ready.split([' ', ',', '\n']);
        words.filter_map(|word| word.strip_prefix(scheme)).map(|it| it.parse().expect("an address")).collect()
    }

    /// The address of the first listener with TLS, which must have been asked for.
    #[track_caller]
    pub(crate) fn secure_address(&self) -> SocketAddr {
        *self.secure_addresses().first().expect("it was asked for")
    }

    /// The address of the admin listener, which must have been asked for.
    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        let (_, admin) = self.ready.trim_end().split_once("admin on http://").expect("it was asked for");
        admin.parse().expect("an address")
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addresses()[0])
    }

    pub(crate) fn open(&self, path: &str) -> Client {
        Client::open(self.addresses()[0], path)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("running"));
        kill_process(pid, signal).expect("it is ours, and was not waited for");
    }

    /// Passes on each line of its log from now on. Its end is the end of the program.
    #[track_caller]
    pub(crate) fn log(&mut self) -> mpsc::Receiver<String> {
        let stderr = self.child.as_mut().expect("running").stderr.take().expect("asked for once");
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end, also where nobody wants to know: a log that is full would stop the program.
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|it| drop(line.send(it)));
        });
        lines
    }

    /// Descriptors that it has open, in the tables of all its threads, when every request to its admin listener is over:
    /// who has heard the end of an answer is ahead of the thread that closes the connection.
    #[track_caller]
    pub(crate) fn descriptors(&self) -> usize {
        let threads = || {
            let directory = format!("/proc/{}/task", self.pid());
            std::fs::read_dir(directory).expect("it runs").flatten().map(|thread| thread.path())
        };
        let answers = |thread: PathBuf| {
            std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "wsd-admin-conn")
        };
        wait_until("admin requests are over", || !threads().any(answers));
        // A thread that ends while it is looked at has none.
        let open = |thread: PathBuf| std::fs::read_dir(thread.join("fd")).map_or(0, Iterator::count);
        threads().map(open).sum()
    }

    /// Bytes of memory that it has in use now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever had in use.
    pub(crate) fn resident_bytes_max(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("proc(5)") * 1024
    }

    /// Processor time so far, in ticks of 10 ms.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let pid = self.child.as_ref().expect("running").id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // After the name, which ends with the last parenthesis, utime and stime are the 12th and 13th field.
        let (_, fields) = stat.rsplit_once(')').expect("proc(5)");
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|ticks| ticks.parse::<u64>().expect("proc(5)")).sum()
    }

    /// Whether a signal has stopped it, with all of its threads, and nothing has continued it. The signal is on its way
    /// to each of them: one that is still running would go on serving.
    pub(crate) fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks.flatten().all(|task| {
            // A thread that ends while it is looked at has to be looked at again.
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with(['T', 't']))
        })
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let child = self.child.as_mut().expect("running");
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, and gives what it said.
    #[track_caller]
    pub(crate) fn output(mut self) -> Output {
        let status = self.wait();
        let child = self.child.as_mut().expect("running");
        let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut output.stdout).expect("readable");
        }
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_end(&mut output.stderr).expect("readable");
        }
        output
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
