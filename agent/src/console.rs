//! The consoles of a machine without a keyboard: which there are, and the block that tells a person what is going on.
//!
//! There is no shell and nothing to type. The block is printed again whenever it says something new, so that a photo
//! of the screen is a complete report.

use muster_protocol::keys::Fingerprint;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a person in front of the machine needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Face {
    pub cluster: String,
    /// Its name in the cluster, where it has one already.
    pub node: Option<String>,
    /// Vendor, product, class.
    pub machine: String,
    pub serial: Option<String>,
    pub fingerprint: Option<Fingerprint>,
    /// Whether the key survives a power cut before the install.
    pub key_kept: bool,
    /// Interface, MAC and address of each port with a link.
    pub ports: Vec<(String, String, Option<Ipv4Addr>)>,
    pub provisioner: Option<String>,
    /// `waiting`, `installing`, `booting`, …
    pub state: String,
    pub reason: Option<String>,
}

/// The block as it is printed: plain ASCII, 76 columns, readable without colour.
pub fn block(face: &Face) -> String {
    const WIDTH: usize = 72;
    let rule = format!("+{}+\n", "-".repeat(WIDTH + 2));
    let mut text = format!("\n{rule}");
    let mut line = |name: &str, value: &str| {
        for (at, piece) in wrap(value, WIDTH - 14).into_iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            text.push_str(&format!("| {:<WIDTH$} |\n", format!("{name:<14}{piece}")));
        }
    };
    line("MUSTER", &format!("cluster {}", face.cluster));
    if let Some(node) = &face.node {
        line("node", node);
    }
    line("machine", &face.machine);
    line("serial", face.serial.as_deref().unwrap_or("none"));
    if let Some(fingerprint) = face.fingerprint {
        line("fingerprint", &fingerprint.to_string());
        if !face.key_kept {
            line("", "(kept in memory only: a power cut before the install makes a new one)");
        }
    }
    if face.ports.is_empty() {
        line("network", "no port with a link");
    }
    for (name, mac, address) in &face.ports {
        let address = address.map_or("no address yet".into(), |address| address.to_string());
        line("network", &format!("{name}  {mac}  {address}"));
    }
    line("provisioner", face.provisioner.as_deref().unwrap_or("not heard yet"));
    line("state", &face.state.to_ascii_uppercase());
    if let Some(reason) = &face.reason {
        line("because", reason);
    }
    text.push_str(&rule);
    text.push('\n');
    text
}

/// Words into lines; what is not plain ASCII shows as `?`, because no console font can be relied on.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let plain: String =
        text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    let mut lines = vec![String::new()];
    for word in plain.split(' ').flat_map(|word| pieces(word, width)) {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.truncate(8);
    lines
}

/// A word that is longer than a line is cut; an empty one keeps double blanks in columns.
fn pieces(word: &str, width: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(word);
    std::iter::from_fn(move || {
        let now = rest.take()?;
        // `wrap` left ASCII only, so any byte is a character's end.
        let (piece, more) = now.split_at_checked(width).unwrap_or((now, ""));
        rest = (!more.is_empty()).then_some(more);
        Some(piece)
    })
}

/// Consoles of the kernel, and a serial port that it was not told about: a UKI's command line is lost when iPXE
/// passes its own (facts: systemd-stub), and a run without a console looks dead.
pub fn names(root: &Path) -> Vec<String> {
    let active = std::fs::read_to_string(root.join("sys/class/tty/console/active")).unwrap_or_default();
    let mut names: Vec<String> = active.split_whitespace().map(str::to_owned).collect();
    let port = |name: &str| std::fs::read_to_string(root.join("sys/class/tty").join(name).join("type"));
    // Type 0 is a slot of the driver without a chip behind it.
    for serial in ["ttyS0", "ttyAMA0"] {
        let there = port(serial).is_ok_and(|kind| kind.trim() != "0");
        if there && !names.iter().any(|name| name == serial) {
            names.push(serial.into());
        }
    }
    names.retain(|name| name.bytes().all(|c| c.is_ascii_alphanumeric()));
    names
}

pub(crate) fn open_all(root: &Path) -> Vec<File> {
    let active = std::fs::read_to_string(root.join("sys/class/tty/console/active")).unwrap_or_default();
    let mut consoles = Vec::new();
    for name in names(root) {
        let path: PathBuf = root.join("dev").join(&name);
        // Without O_NONBLOCK a serial line held by flow control would stop PID 1.
        let options = libc::O_NOCTTY | libc::O_NONBLOCK;
        let Ok(console) = File::options().write(true).custom_flags(options).open(path) else { continue };
        if !active.split_whitespace().any(|known| known == name) {
            set_speed(&console);
        }
        consoles.push(console);
    }
    consoles
}

/// One line on every console, for a service whose own log goes to the journal: a person in front of the machine, and the
/// lab's clock, see each step begin and end.
pub(crate) fn say(root: &Path, text: &str) {
    let line = format!("{} muster: {text}\r\n", crate::log::uptime());
    open_all(root).iter().for_each(|console| write(console, line.as_bytes()));
}

/// 115200 8N1, as every serial console of ours; ports that the kernel does not use start at 9600.
fn set_speed(port: &File) {
    use nix::sys::termios::{BaudRate, SetArg, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr};
    let Ok(mut settings) = tcgetattr(port) else { return };
    cfmakeraw(&mut settings);
    if cfsetspeed(&mut settings, BaudRate::B115200).is_ok() {
        // A port that cannot be set shows garbage at worst.
        let _unset = tcsetattr(port, SetArg::TCSANOW, &settings);
    }
}

/// Writes what the port takes within a fifth of a second for each piece; a stuck port loses text, never time.
pub(crate) fn write(mut console: &File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(0) => return,
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(console.as_fd(), PollFlags::POLLOUT)];
                if nix::poll::poll(&mut ready, PollTimeout::from(200_u16)) != Ok(1) {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face() -> Face {
        Face {
            cluster: "sharpi".into(),
            machine: "LENOVO 11JN (mini-pc)".into(),
            serial: Some("PF-0001".into()),
            fingerprint: Some(Fingerprint([7; 10])),
            key_kept: true,
            ports: vec![("eth0".into(), "52:54:00:00:00:11".into(), Some(Ipv4Addr::new(10, 77, 0, 101)))],
            provisioner: Some("10.77.0.1".into()),
            state: "waiting".into(),
            reason: Some(
                "this key is not admitted yet; hint: muster node approve mini-pc-1 ABCD-EFGH-IJKL-MNOP"
                    .into(),
            ),
            node: None,
        }
    }

    #[test]
    fn the_block_shows_what_a_person_has_to_compare() {
        let text = block(&face());
        for part in ["sharpi", "PF-0001", &Fingerprint([7; 10]).to_string(), "WAITING", "10.77.0.101"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn every_line_is_76_columns_of_ascii() {
        let mut face = face();
        face.machine = format!("Ünïcödé\x1b[2J {}", "x".repeat(200));
        face.reason = Some("w ".repeat(400));
        for line in block(&face).lines().filter(|line| !line.is_empty()) {
            assert_eq!(line.len(), 76, "{line}");
            assert!(line.bytes().all(|c| c == b' ' || c.is_ascii_graphic()), "{line}");
        }
    }
}
