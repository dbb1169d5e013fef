//! Member names: `<node name>-<8 hex>`, kept in db/etcd/name.

use alloc::{format, string::String};

/// The name of a new member of this node.
pub fn member_name(node: &str, luck: u64) -> String {
    format!("{node}-{:08x}", luck as u32)
}

/// The node name in a member name, cut as k3s cuts it: at the last hyphen, if that is behind the second character.
///
/// Never compare by prefix: mini-pc-1 is a prefix of mini-pc-10.
pub fn node_of(member: &str) -> &str {
    match member.rfind('-') {
        Some(at) if at > 1 => &member[..at],
        Some(_) | None => member,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_name_gives_back_its_node() {
        assert_eq!(member_name("mini-pc-1", 0x1_cc20_dc98), "mini-pc-1-cc20dc98");
        assert_eq!(node_of("mini-pc-1-cc20dc98"), "mini-pc-1");
        assert_ne!(node_of("mini-pc-10-cc20dc98"), "mini-pc-1");
        assert_eq!(node_of("n-cc20dc98"), "n-cc20dc98");
    }
}
