//! `skim bench --host` against an sshd of this machine that belongs to the test: own port, own keys, own folder.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Called, Folder, skim};

const SSHD: &str = "/usr/sbin/sshd";

/// Ends with the test, however that ends.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// An sshd for the user who runs the test; `None`, with a line, where there is none.
fn server(folder: &Folder) -> Option<Server> {
    if !Path::new(SSHD).exists() || Command::new("ssh").arg("-V").output().is_err() {
        println!("skipped: openssh-server and openssh-client are not installed");
        return None;
    }
    key(&folder.path("host_key"));
    key(&folder.path("user_key"));
    fs::rename(folder.path("user_key.pub"), folder.path("authorized_keys")).unwrap();
    // Free a moment ago: good enough for a test, which would fail loudly.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n\
         SetEnv TMPDIR={}\n",
        folder.path("host_key").display(),
        folder.path("authorized_keys").display(),
        // The board's temporary files go where the test can see them.
        folder.path("board").display()
    );
    fs::create_dir(folder.path("board")).unwrap();
    let config = folder.write("sshd_config", config);
    // Debian's sshd, started as root, wants this folder, which its service would make.
    let _ = fs::create_dir_all("/run/sshd");
    let child = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Server { child, port };
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if server.child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(20) {
            let mut said = String::new();
            let _ = server.child.kill();
            server
                .child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("sshd does not answer: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

fn ssh(folder: &Folder, server: &Server) -> String {
    format!(
        "ssh -F none -p {} -i {} -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
        server.port,
        folder.path("user_key").display(),
        folder.path("known_hosts").display()
    )
}

fn user() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_bench_on_a_board_gives_its_record_and_leaves_nothing() {
    let folder = Folder::new();
    let Some(server) = server(&folder) else {
        return;
    };
    let (model, ssh) = (folder.import("q8"), ssh(&folder, &server));
    let host = format!("{}@127.0.0.1", user());
    let temporary = folder.path("board");
    let record = skim![
        "bench",
        model,
        "--host",
        host,
        "--ssh",
        ssh,
        "--prompt",
        "16",
        "--gen",
        "8",
        "--reps",
        "2",
        "--threads",
        "1",
        "--json"
    ]
    .json();
    assert_eq!(record["host"], host);
    assert_eq!(
        (record["prompt"].as_u64(), record["gen"].as_u64()),
        (Some(16), Some(8))
    );
    assert_eq!(
        (record["reps"].as_u64(), record["threads"].as_u64()),
        (Some(2), Some(1))
    );
    assert!(record["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(record["machine"]["arch"], std::env::consts::ARCH);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);

    let text = skim!["bench", model, "--host", host, "--ssh", ssh, "--reps", "1"].text();
    assert!(text.contains("decode") && text.contains("tok/s"), "{text}");
}

/// As `refused`, behind what ssh itself and the progress say on standard error.
fn fails(called: Called, words: &[&str]) {
    assert_eq!(
        (called.status, called.stdout.as_str()),
        (Some(2), ""),
        "{called:?}"
    );
    for word in words {
        assert!(called.stderr.contains(word), "no `{word}` in {called:?}");
    }
}

#[test]
fn what_goes_wrong_over_ssh_is_told() {
    let folder = Folder::new();
    let model = folder.import("q8");
    skim!["bench", model, "--host", "x@y", "--ssh", "no-such-ssh"]
        .refused(&["no-such-ssh", "--ssh"]);
    skim!["bench", folder.path("none.skim"), "--host", "x@y"].refused(&["none.skim"]);
    let Some(server) = server(&folder) else {
        return;
    };
    let ssh = ssh(&folder, &server);
    let host = format!("{}@127.0.0.1", user());
    let user_key = folder.path("user_key").display().to_string();
    let stranger =
        ssh.replace(&user_key, "/dev/null") + " -o IdentitiesOnly=yes -o IdentityAgent=none";
    fails(
        skim!["bench", model, "--host", host, "--ssh", stranger],
        &["cannot be reached", "try: "],
    );
    // A shell there takes it for a script.
    let binary = folder.write("not-a-program", "exit 7\n");
    fails(
        skim![
            "bench", model, "--host", host, "--ssh", ssh, "--binary", binary
        ],
        &["ended with", "7"],
    );
    assert_eq!(fs::read_dir(folder.path("board")).unwrap().count(), 0);
}
