//! Servers: ours in a process of its own, and those of others from Debian sid.

use super::{
    account::Account,
    support::{Folder, Host},
};
use muster::{
    boot::{published::Published, table::BootTable},
    serve::{boot_http, dhcp, tftp},
};
use muster_protocol::ids::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Muster,
    Dnsmasq,
    TftpdHpa,
    Atftpd,
    Nginx,
}

/// One that runs; dropping it ends it.
pub(super) struct Running {
    process: Child,
    account: Account,
}

/// Fetches the peers; their folder.
pub(super) fn fetch() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/peers.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no peers, no comparison");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

impl Server {
    pub(super) const TFTP: &'static [Self] = &[Self::Muster, Self::Dnsmasq, Self::TftpdHpa, Self::Atftpd];
    pub(super) const HTTP: &'static [Self] = &[Self::Muster, Self::Nginx];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Muster => "muster",
            Self::Dnsmasq => "dnsmasq",
            Self::TftpdHpa => "tftpd-hpa",
            Self::Atftpd => "atftpd",
            Self::Nginx => "nginx",
        }
    }

    /// Starts it on `host`, and waits until it listens.
    pub(super) fn start(self, host: &Host, peers: &Path, folder: &Folder) -> Running {
        let root = folder.path("").display().to_string();
        let theirs = |words: &[&str]| {
            let mut command = host.command(&peers.join("run").display().to_string());
            command.args(words);
            command
        };
        let mut command = match self {
            Self::Muster => {
                let mut command = host.command(&std::env::current_exe().unwrap().display().to_string());
                command.args(["serve", "eth0", &root]);
                command
            }
            Self::Dnsmasq => theirs(&[
                "dnsmasq",
                "-k",
                "-p0",
                "--user=root",
                "--conf-file=/dev/null",
                "--pid-file",
                "--interface=eth0",
                "--bind-interfaces",
                "--enable-tftp",
                "--quiet-tftp",
                "--tftp-max=200",
                &format!("--tftp-root={root}"),
            ]),
            Self::TftpdHpa => theirs(&["in.tftpd", "-L", "-u", "root", "-a", "10.77.0.1:69", "-s", &root]),
            Self::Atftpd => theirs(&[
                "atftpd",
                "--daemon",
                "--no-fork",
                "--user",
                "root.root",
                "--maxthread",
                "200",
                "--no-multicast",
                "--bind-address",
                "10.77.0.1",
                &root,
            ]),
            Self::Nginx => {
                let configuration = folder.path("nginx.conf");
                fs::write(&configuration, nginx_configuration(&root)).unwrap();
                theirs(&["nginx", "-e", "/dev/null", "-c", &configuration.display().to_string()])
            }
        };
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let account = Account::of(process.id());
        let mut running = Running { process, account };
        let (kind, port) = if self == Self::Nginx { ("-Hltn", ":80 ") } else { ("-Hlun", ":69 ") };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let listening = host.command("ss").arg(kind).output().unwrap().stdout;
            if String::from_utf8_lossy(&listening).contains(port) {
                return running;
            }
            let ended = running.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} does not listen: {ended:?}",
                self.name()
            );
        }
    }
}

impl Running {
    /// Processor time of the server, its threads and its children so far.
    pub(super) fn cpu(&self) -> Duration {
        self.account.cpu()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's master ends its workers when it is asked, not when it is killed.
        let asked = Command::new("kill").arg(self.process.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(3);
        while asked.is_ok() && Instant::now() < deadline {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::yield_now();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn nginx_configuration(root: &str) -> String {
    format!(
        "daemon off; worker_processes 1; pid {root}/nginx.pid; user root;
        events {{ worker_connections 512; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65;
            client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
            uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
            server {{ listen 80; location /boot/ {{ alias {root}/; }} }}
        }}"
    )
}

/// Our servers, until the process is ended.
pub(super) fn serve_ours(interface: &str, folder: &Path) -> ExitCode {
    let published = Published::default();
    let path = folder.join("file.efi");
    let size = fs::metadata(&path).unwrap().len();
    published.publish("file.efi", &path, size, Digest::of(b"not looked at here"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let (events, mut heard) = mpsc::unbounded_channel();
        let (_table, tables) = watch::channel(BootTable::default());
        let dhcp_sockets = dhcp::open(interface).unwrap();
        let http_socket = boot_http::open(interface).unwrap();
        let tftp_socket = tftp::open(interface).unwrap();
        tokio::select! {
            end = dhcp::run(dhcp_sockets, tables, events.clone()) => end,
            end = boot_http::run(http_socket, published.clone(), events.clone()) => end,
            end = tftp::run(tftp_socket, published, events) => end,
            () = async { while heard.recv().await.is_some() {} } => Ok(()),
        }
    });
    eprintln!("ended: {ended:?}");
    ExitCode::FAILURE
}
