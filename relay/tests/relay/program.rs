//! The program itself, as a process.

use std::process::Stdio;

use crate::client::{Client, identity, soon};
use p2p_net_proto::RelayAddress;
use p2p_net_proto::wire::{FromRelay, Goodbye, Ping, reason};
use quinn::ConnectionError;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

fn program(folder: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landline-relay"));
    command
        .arg("--data-dir")
        .arg(folder)
        .env_remove("JOURNAL_STREAM")
        .env_remove("LANDLINE_TOKEN")
        .env_remove("STATE_DIRECTORY")
        .env("RUST_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

struct Running {
    child: Child,
    address: RelayAddress,
    lines: Vec<String>,
}

async fn start(mut command: Command) -> Running {
    let mut child = command.spawn().expect("started");
    let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut lines = Vec::new();
    let address = loop {
        let line = soon(out.next_line())
            .await
            .expect("readable")
            .expect("an address");
        let first = line.split(' ').next().unwrap_or_default().to_owned();
        lines.push(line);
        if first.contains('#') {
            break first.parse().expect("a relay address");
        }
    };
    Running {
        child,
        address,
        lines,
    }
}

impl Running {
    fn token(&self) -> Option<String> {
        self.address
            .token
            .as_ref()
            .map(|token| token.reveal().to_owned())
    }

    async fn login(&self, n: u8) -> Client {
        let to = format!("{}:{}", self.address.host, self.address.port);
        let to = to.parse().expect("an address");
        let mut client = Client::dial(&self.address, to, identity(n)).await;
        client.welcome(self.token()).await;
        client
    }

    fn terminate(&self) {
        let id = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .expect("running");
        let process = rustix::process::Pid::from_raw(id).expect("a process");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("signalled");
    }

    async fn log(&mut self) -> String {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        soon(stderr.read_to_string(&mut log))
            .await
            .expect("readable");
        log
    }
}

#[tokio::test]
async fn sigterm_says_goodbye_and_exits_with_0() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = program(folder.path());
    command.args(["--listen", "127.0.0.1:0"]);
    let mut running = start(command).await;
    assert_eq!(running.address.host, "127.0.0.1");
    let mut client = running.login(1).await;
    running.terminate();
    match client.hear().await {
        FromRelay::Goodbye(Goodbye { code, .. }) => assert_eq!(code, reason::SHUTDOWN),
        other => panic!("not a goodbye: {other:?}"),
    }
    let token = running.token().expect("a token");
    let log = running.log().await;
    assert!(soon(running.child.wait()).await.expect("ended").success());
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains(&token), "the token is in the log");
}

#[tokio::test]
async fn after_a_kill_old_connections_learn_at_once_that_they_are_dead() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = program(folder.path());
    command.args(["--listen", "127.0.0.1:0"]);
    let mut first = start(command).await;
    let mut client = first.login(1).await;
    first.child.kill().await.expect("killed");
    let mut command = program(folder.path());
    command.args([
        "--listen",
        &format!("127.0.0.1:{}", first.address.port),
        "--stun-port",
        "0",
    ]);
    let second = start(command).await;
    assert_eq!(
        second.address, first.address,
        "key, token and port are kept"
    );
    client.say(Ping { nonce: 1 }).await;
    let end = soon(client.connection.closed()).await;
    assert!(matches!(end, ConnectionError::Reset), "{end}");
    second.login(1).await;
}

#[tokio::test]
async fn a_journal_does_not_see_the_token_and_the_address_command_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = program(folder.path());
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("JOURNAL_STREAM", "8:1234");
    let mut running = start(command).await;
    assert_eq!(running.address.token, None);
    assert!(
        running
            .lines
            .iter()
            .any(|line| line.contains("landline-relay address"))
    );
    let mut command = program(folder.path());
    command.args(["address"]);
    let wrong_place = soon(command.output()).await.expect("ran");
    assert!(
        !wrong_place.status.success(),
        "flags of the server are not those of the command"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_landline-relay"));
    command.arg("address").arg("--data-dir").arg(folder.path());
    let output = soon(command.output()).await.expect("ran");
    assert!(output.status.success());
    let full: RelayAddress = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("an address");
    assert_eq!(full.redacted(), running.address.to_string());
    running.terminate();
    let log = running.log().await;
    for line in log.lines() {
        assert!(
            line.starts_with('{') && line.ends_with('}'),
            "not JSON: {line}"
        );
    }
    assert!(!log.contains(full.token.expect("a token").reveal()));
}

#[tokio::test]
async fn token_from_the_environment_and_public_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = "abcdefghijklmnop";
    let mut command = program(folder.path());
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--public-address",
        "relay.example.org:7443",
    ]);
    command.env("LANDLINE_TOKEN", token);
    let running = start(command).await;
    assert_eq!(
        (running.address.host.as_str(), running.address.port),
        ("relay.example.org", 7443)
    );
    assert_eq!(running.token().as_deref(), Some(token));
}

async fn fails(arguments: &[&str], folder: &std::path::Path) -> String {
    let mut command = program(folder);
    command.args(arguments);
    let output = soon(command.output()).await.expect("ran");
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let text = fails(&["--listen", &address], folder.path()).await;
    assert!(
        text.contains(&address) && text.contains("another program"),
        "{text}"
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = fails(&["--listen", "127.0.0.1:0"], &file.path().join("x")).await;
    assert!(text.contains("data folder"), "{text}");
    let text = fails(
        &["--listen", "127.0.0.1:0", "--allow", "/no/such/list"],
        folder.path(),
    )
    .await;
    assert!(text.contains("/no/such/list"), "{text}");
    let text = fails(&["--listen", "somewhere"], folder.path()).await;
    assert!(
        text.contains("--listen") && text.contains("[::]:443"),
        "{text}"
    );
    let text = fails(&["--token", "short"], folder.path()).await;
    assert!(text.contains("16 to 64"), "{text}");
    let text = fails(
        &["--listen", "127.0.0.1:0", "--public-address", "a b"],
        folder.path(),
    )
    .await;
    assert!(text.contains("a b"), "{text}");
}
