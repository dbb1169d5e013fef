//! The node key: from the installed disk, from the firmware, or new. It never leaves this machine.

use crate::install::bootentry::Variables;
use anyhow::Context;
use muster_protocol::keys::SecretKey;
use zeroize::Zeroizing;

/// Our own namespace of EFI variables.
pub(super) const VENDOR: &str = "5b0f6a2e-9a53-4c1f-8e21-6d7573746572";
/// The variable that holds the 32 bytes of the seed.
pub(super) const NAME: &str = "MusterNodeKey";

/// Where a copy of the key lies that survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Disk,
    Firmware,
    /// Nowhere: the next boot has another key, until the machine is installed.
    Memory,
}

#[derive(Debug)]
pub(super) struct NodeKey {
    pub secret: SecretKey,
    pub kept: Kept,
}

/// Takes the first that is there, and sees to a second copy in the firmware where it has room for one. `had` is the key
/// of a machine that starts over: it was admitted with it, and may hold an order. `new` makes one where nobody has any.
pub(super) fn find(
    on_disk: Option<SecretKey>,
    mut firmware: Option<&mut dyn Variables>,
    had: Option<SecretKey>,
    new: impl FnOnce() -> anyhow::Result<[u8; 32]>,
) -> anyhow::Result<NodeKey> {
    let stored = match firmware.as_mut().map(|variables| stored(*variables)) {
        Some(Ok(stored)) => stored,
        // What cannot be read may be the key that this machine is admitted with: it is not written over.
        Some(Err(error)) => {
            tracing::warn!(%error, "the firmware does not give the node key");
            firmware = None;
            None
        }
        None => None,
    };
    let (secret, found) = match (on_disk, &stored) {
        (Some(secret), _) => (secret, Kept::Disk),
        (None, Some(seed)) => (SecretKey::from_seed(**seed), Kept::Firmware),
        (None, None) => {
            let secret = match had {
                Some(had) => had,
                None => SecretKey::from_seed(new().context("making a node key")?),
            };
            (secret, Kept::Memory)
        }
    };
    if stored.is_some_and(|seed| *seed == *secret.seed()) {
        return Ok(NodeKey { kept: if found == Kept::Disk { found } else { Kept::Firmware }, secret });
    }
    let kept = match firmware.map(|variables| variables.write(NAME, secret.seed())) {
        Some(Ok(())) if found == Kept::Memory => Kept::Firmware,
        Some(Ok(())) | None => found,
        Some(Err(error)) => {
            tracing::warn!(%error, "the firmware does not keep the node key");
            found
        }
    };
    Ok(NodeKey { secret, kept })
}

/// A variable of the wrong length is as good as none: it is written anew.
fn stored(variables: &mut dyn Variables) -> std::io::Result<Option<Zeroizing<[u8; 32]>>> {
    let Some(bytes) = variables.read(NAME)?.map(Zeroizing::new) else { return Ok(None) };
    Ok(<[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Default)]
    struct Firmware {
        value: Option<Vec<u8>>,
        broken: bool,
        unreadable: bool,
        writes: u32,
    }

    impl Variables for Firmware {
        fn names(&mut self) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn read(&mut self, _: &str) -> io::Result<Option<Vec<u8>>> {
            if self.unreadable {
                return Err(io::Error::other("try later"));
            }
            Ok(self.value.clone())
        }
        fn write(&mut self, _: &str, value: &[u8]) -> io::Result<()> {
            self.writes += 1;
            if self.broken {
                return Err(io::Error::other("no room"));
            }
            self.value = Some(value.to_vec());
            Ok(())
        }
        fn delete(&mut self, _: &str) -> io::Result<()> {
            Ok(())
        }
    }

    fn new() -> anyhow::Result<[u8; 32]> {
        Ok([1; 32])
    }

    fn never() -> anyhow::Result<[u8; 32]> {
        panic!("a key was made although there was one")
    }

    #[test]
    fn a_new_key_is_kept_by_the_firmware_and_found_there_again() {
        let mut firmware = Firmware::default();
        let key = find(None, Some(&mut firmware), None, new).unwrap();
        assert_eq!((key.kept, key.secret.seed()), (Kept::Firmware, &[1; 32]));
        let again = find(None, Some(&mut firmware), None, never).unwrap();
        assert_eq!((again.kept, again.secret.seed(), firmware.writes), (Kept::Firmware, &[1; 32], 1));
    }

    #[test]
    fn the_disks_key_goes_before_the_firmwares_and_is_copied_once() {
        let mut firmware = Firmware { value: Some(vec![2; 32]), ..Firmware::default() };
        for _ in 0..2 {
            let key = find(Some(SecretKey::from_seed([3; 32])), Some(&mut firmware), None, never).unwrap();
            assert_eq!((key.kept, key.secret.seed()), (Kept::Disk, &[3; 32]));
        }
        assert_eq!((firmware.value, firmware.writes), (Some(vec![3; 32]), 1));
    }

    #[test]
    fn without_a_place_the_key_lives_in_memory_and_says_so() {
        assert_eq!(find(None, None, None, new).unwrap().kept, Kept::Memory);
        let mut broken = Firmware { broken: true, ..Firmware::default() };
        assert_eq!(find(None, Some(&mut broken), None, new).unwrap().kept, Kept::Memory);
    }

    #[test]
    fn a_machine_that_starts_over_keeps_its_key_where_nothing_else_does() {
        let had = || Some(SecretKey::from_seed([4; 32]));
        let key = find(None, None, had(), never).unwrap();
        assert_eq!((key.kept, key.secret.seed()), (Kept::Memory, &[4; 32]));
        // Disk and firmware may be another machine's by now, or older: what lasts goes first.
        let mut firmware = Firmware { value: Some(vec![2; 32]), ..Firmware::default() };
        assert_eq!(find(None, Some(&mut firmware), had(), never).unwrap().secret.seed(), &[2; 32]);
        let mut empty = Firmware::default();
        let key = find(None, Some(&mut empty), had(), never).unwrap();
        assert_eq!((key.kept, empty.value), (Kept::Firmware, Some(vec![4; 32])));
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_written_over() {
        let mut firmware = Firmware { value: Some(vec![2; 32]), unreadable: true, ..Firmware::default() };
        assert_eq!(find(None, Some(&mut firmware), None, new).unwrap().kept, Kept::Memory);
        let disk = find(Some(SecretKey::from_seed([3; 32])), Some(&mut firmware), None, never).unwrap();
        assert_eq!((disk.kept, firmware.writes), (Kept::Disk, 0));
        firmware.unreadable = false;
        assert_eq!(find(None, Some(&mut firmware), None, never).unwrap().secret.seed(), &[2; 32]);
    }

    #[test]
    fn a_variable_of_the_wrong_length_is_written_anew() {
        let mut firmware = Firmware { value: Some(vec![2; 31]), ..Firmware::default() };
        assert_eq!(find(None, Some(&mut firmware), None, new).unwrap().kept, Kept::Firmware);
        assert_eq!(firmware.value, Some(vec![1; 32]));
    }
}
