//! One look of the join loop at a member list: add, go on, refuse a taken name, or (the odd path) start alone.

use crate::cluster::Member;
use crate::config::url_host;
use crate::names::node_of;
use alloc::{string::String, vec::Vec};

/// What a joiner does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// Another member has this node's name: k3s removes its name file and ends.
    Duplicate,
    /// MemberAddAsLearner, then start as `existing` with this initial cluster and ourselves.
    Add { cluster: Vec<(String, String)> },
    /// Listed already, by name or as an unstarted member at our address: start as `existing`.
    GoOn { cluster: Vec<(String, String)> },
    /// The list holds only ourselves: etcd starts with state `new`.
    Alone,
}

/// k3s's `join`: compares node names without their suffix, takes an unstarted member at our address for ourselves.
pub fn decide_join(members: &[Member], node: &str, name: &str, address: &str) -> JoinStep {
    let mut cluster = Vec::new();
    let mut listed = false;
    for member in members {
        let here = url_host(&member.peer_url) == address;
        let shown = match &member.name {
            None if here => name,
            None => "",
            Some(shown) => shown.as_str(),
        };
        listed |= shown == name && here;
        if shown != name && node_of(shown) == node {
            return JoinStep::Duplicate;
        }
        cluster.push((String::from(shown), member.peer_url.clone()));
    }
    match (listed, members.len()) {
        (true, 1) => JoinStep::Alone,
        (true, _) => JoinStep::GoOn { cluster },
        (false, _) => JoinStep::Add { cluster },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;
    use alloc::format;

    fn member(n: u8, name: Option<&str>) -> Member {
        let peer_url = format!("https://10.77.0.1{n}:2380");
        Member { id: MemberId(n.into()), name: name.map(String::from), peer_url, learner: name.is_none() }
    }

    fn decide(members: &[Member]) -> JoinStep {
        decide_join(members, "mini-pc-2", "mini-pc-2-b5569b1a", "10.77.0.12")
    }

    #[test]
    fn a_stranger_is_added_beside_the_others() {
        let cluster =
            Vec::from([(String::from("mini-pc-1-cc20dc98"), String::from("https://10.77.0.11:2380"))]);
        assert_eq!(decide(&[member(1, Some("mini-pc-1-cc20dc98"))]), JoinStep::Add { cluster });
    }

    #[test]
    fn a_taken_name_is_refused_and_a_prefix_is_not_taken() {
        assert_eq!(decide(&[member(3, Some("mini-pc-2-00000000"))]), JoinStep::Duplicate);
        assert!(matches!(decide(&[member(3, Some("mini-pc-20-00000000"))]), JoinStep::Add { .. }));
    }

    #[test]
    fn an_unstarted_member_at_our_address_is_ourselves() {
        let step = decide(&[member(1, Some("mini-pc-1-cc20dc98")), member(2, None)]);
        let JoinStep::GoOn { cluster } = step else { panic!("{step:?}") };
        assert_eq!(cluster[1].0, "mini-pc-2-b5569b1a");
    }

    #[test]
    fn a_list_of_only_ourselves_is_the_odd_path() {
        assert_eq!(decide(&[member(2, Some("mini-pc-2-b5569b1a"))]), JoinStep::Alone);
    }
}
