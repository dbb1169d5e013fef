//! `k3s kubectl`: the verbs that Muster calls, with kubectl's words and exit status; anything else is refused by name.

pub mod arguments; // what was asked, parsed
pub mod client; // the API behind /etc/rancher/k3s/k3s.yaml
pub mod nodes; // cordon, uncordon, drain, taint, label
pub mod run; // the verbs
