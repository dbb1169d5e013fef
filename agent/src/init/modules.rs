//! Which kernel modules a device wants, in which order: modprobe's tables, read once. Loading is `coldplug`'s.
//!
//! Formats: depmod(8), modules.dep(5). Names compare with `-` and `_` alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The tables of one kernel release.
#[derive(Debug, Default)]
pub(super) struct Index {
    folder: PathBuf,
    /// By the text before the first `:`, so that a PCI device is not compared with every USB pattern.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
    softer: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Module {
    file: PathBuf,
    /// As in modules.dep: what is loaded first stands last.
    needs: Vec<String>,
}

impl Index {
    /// Tables below `/lib/modules/<release>`; a missing one is an empty one.
    pub(super) fn read(folder: &Path) -> Self {
        let text = |name: &str| {
            fs::read(folder.join(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        let mut index = Self::parse(
            &text("modules.dep"),
            &text("modules.alias"),
            &text("modules.builtin"),
            &text("modules.softdep"),
        );
        index.folder = folder.into();
        index
    }

    fn parse(dep: &str, alias: &str, builtin: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_whitespace().map(name_of).collect();
            index.modules.insert(name_of(file), Module { file: file.trim().into(), needs });
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let bus = bus(pattern).to_owned();
                index.aliases.entry(bus).or_default().push((pattern.into(), plain(module)));
            }
        }
        index.builtin = builtin.lines().map(name_of).collect();
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            index.softer.entry(plain(module)).or_default().extend(before.map(str::to_owned));
        }
        index
    }

    pub(super) fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The modules whose aliases fit a device's.
    pub(super) fn wanted(&self, modalias: &str) -> Vec<&str> {
        let fitting = |list: &'_ [(String, String)]| -> Vec<usize> {
            (0..list.len()).filter(|at| fits(list[*at].0.as_bytes(), modalias.as_bytes())).collect()
        };
        let mut found: Vec<&str> = Vec::new();
        // Patterns such as `*` or `of:N*T*Cvendor,chip` have their own first part; an empty one is tried always.
        for bus in [bus(modalias), ""] {
            let Some(list) = self.aliases.get(bus) else { continue };
            for at in fitting(list) {
                let module = list[at].1.as_str();
                if !found.contains(&module) {
                    found.push(module);
                }
            }
        }
        found
    }

    /// The modules behind a name as the kernel or a soft dependency says it: a module's own, or an alias such as
    /// `crypto-crc32c`.
    pub(super) fn named(&self, name: &str) -> Vec<String> {
        let own = plain(name);
        if self.modules.contains_key(&own) || self.builtin.contains(&own) {
            return vec![own];
        }
        self.wanted(name).into_iter().map(str::to_owned).collect()
    }

    /// The files to load for `module`, dependencies first; `None` when there is nothing to do for it here.
    pub(super) fn files(&self, module: &str) -> Option<Vec<PathBuf>> {
        let module = plain(module);
        if self.builtin.contains(&module) {
            return None;
        }
        let mut names = Vec::new();
        for name in self.with_needs(&module)? {
            // ext4 asks for crc32c while it is mounted, not while it is loaded: nobody would be there to answer.
            for soft in self.softer.get(name).into_iter().flatten().flat_map(|soft| self.named(soft)) {
                names.extend(self.with_needs(&soft).into_iter().flatten().map(str::to_owned));
            }
            names.push(name.to_owned());
        }
        let files = names.iter().filter_map(|name| Some(self.folder.join(&self.modules.get(name)?.file)));
        Some(files.collect())
    }

    fn with_needs<'a>(&'a self, module: &'a str) -> Option<Vec<&'a str>> {
        let needs = self.modules.get(module)?.needs.iter().rev().map(String::as_str);
        Some(needs.chain([module]).collect())
    }
}

/// `kernel/drivers/net/e1000e.ko.zst` is `e1000e`.
fn name_of(file: &str) -> String {
    let base = file.trim().rsplit('/').next().unwrap_or_default();
    plain(base.split_once(".ko").map_or(base, |(name, _)| name))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The first part of an alias, unless it has a wildcard in it.
fn bus(alias: &str) -> &str {
    alias
        .split_once(':')
        .map_or("", |(bus, _)| bus)
        .split_once(['*', '?', '['])
        .map_or_else(|| alias.split_once(':').map_or("", |(bus, _)| bus), |_| "")
}

/// fnmatch(3) as depmod uses it: `*`, `?` and `[a-f]`.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and how much of the text it has swallowed: going back there is enough.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => set(&pattern[p..], text[t]),
            Some(c) if *c == text[t] => Some(1),
            Some(_) | None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, swallowed))) => {
                star = Some((at, swallowed + 1));
                p = at + 1;
                t = swallowed + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The length of the set that `pattern` begins with, if `c` is in it.
fn set(pattern: &[u8], c: u8) -> Option<usize> {
    let end = pattern.iter().position(|c| *c == b']')?;
    let mut inside = &pattern[1..end];
    let mut found = false;
    while let Some((first, rest)) = inside.split_first() {
        inside = match rest {
            [b'-', last, rest @ ..] => {
                found |= (*first..=*last).contains(&c);
                rest
            }
            rest => {
                found |= *first == c;
                rest
            }
        };
    }
    found.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko kernel/virtio.ko\n\
                       kernel/net/net_failover.ko: kernel/net/failover.ko\nkernel/net/failover.ko:\nkernel/virtio.ko:\n\
                       kernel/fs/ext4.ko.zst: kernel/fs/jbd2.ko.zst\nkernel/fs/jbd2.ko.zst:\nkernel/lib/crc32c-generic.ko:\n";
    const ALIAS: &str = "# comment\nalias virtio:d00000001v* virtio_net\n\
                         alias pci:v00008086d00001533sv*sd*bc*sc*i* igb\nalias fs-ext4 ext4\n\
                         alias usb:v0B95p1790d*dc*dsc*dp*ic*isc*ip*in* ax88179-178a\n\
                         alias crypto-crc32c crc32c_generic\n";

    fn index() -> Index {
        Index::parse(DEP, ALIAS, "kernel/block/loop.ko\n", "softdep jbd2 pre: crypto-crc32c post: nothing\n")
    }

    #[test]
    fn a_device_finds_its_driver() {
        let index = index();
        assert_eq!(index.wanted("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(index.wanted("pci:v00008086d00001533sv00008086sd00000000bc02sc00i00"), ["igb"]);
        assert_eq!(index.wanted("usb:v0B95p1790d0200dcFFdscFFdp00icFFiscFFip00in00"), ["ax88179_178a"]);
        assert_eq!(index.wanted("pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"), Vec::<&str>::new());
    }

    #[test]
    fn dependencies_come_first() {
        let names = |module| -> Vec<String> {
            let files = index().files(module).unwrap();
            files.iter().map(|file| name_of(&file.to_string_lossy())).collect()
        };
        assert_eq!(names("virtio_net"), ["virtio", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn a_soft_dependency_may_be_an_alias_of_a_dependency() {
        let index = index();
        let files = index.files("ext4").unwrap();
        let names: Vec<String> = files.iter().map(|file| name_of(&file.to_string_lossy())).collect();
        assert_eq!(names, ["crc32c_generic", "jbd2", "ext4"]);
        assert_eq!(index.named("crypto-crc32c"), ["crc32c_generic"]);
        assert_eq!(index.named("fs-ext4"), ["ext4"]);
        assert_eq!(index.named("jbd2"), ["jbd2"]);
    }

    #[test]
    fn what_is_built_in_or_unknown_needs_nothing() {
        assert_eq!(index().files("loop"), None);
        assert_eq!(index().files("nonesuch"), None);
    }

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text) in [
            ("*", ""),
            ("a*c*e", "abcde"),
            ("a?c", "abc"),
            ("x[0-9A-F]y", "xBy"),
            ("ab*", "ab"),
            ("*b*b", "abbb"),
        ] {
            assert!(fits(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a*c", "ab"), ("a?", "a"), ("x[0-9]y", "xBy"), ("[", "["), ("a", "ab")]
        {
            assert!(!fits(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_tables_never_panic(text in "[a-z:*?\\[\\]./ \\n-]{0,200}") {
            let index = Index::parse(&text, &text, &text, &text);
            let _any = (index.wanted(&text), index.files(&text));
            prop_assert!(fits(b"*", text.as_bytes()));
        }
    }
}
