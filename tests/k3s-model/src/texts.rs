//! What k3s and etcd print, word for word: what people and the agent search for.

pub const DUPLICATE_NAME: &str = "duplicate node name found, please use a unique name for this node";
pub const JOIN_FAILED: &str = "etcd cluster join failed";
pub const CRITICAL_MISMATCH: &str = "critical configuration value mismatch between servers";
pub const WAITING_TO_JOIN: &str = "Waiting for other members to finish joining etcd cluster";
pub const WAITING_FOR_LIST: &str = "Waiting to retrieve etcd cluster member list";
pub const ADD_TIMED_OUT: &str = "Retrying etcd cluster join: MemberAdd request timed out";
pub const TOKEN_NOT_VALIDATED: &str = "failed to validate token";
pub const MEMBER_LIST_FAILED: &str = "failed to get etcd MemberList";
pub const ETCD_NOT_STARTED: &str = "etcd not started";
pub const DEADLINE: &str = "context deadline exceeded";
pub const STREAM_CANCELLED: &str =
    "rpc error: code = DeadlineExceeded desc = stream terminated by RST_STREAM with error code: CANCEL";
pub const NOT_FOR_LEARNER: &str = "etcdserver: rpc not supported for learner";
pub const TOO_MANY_LEARNERS: &str = "etcdserver: too many learner members in cluster";
pub const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
pub const NOT_ENOUGH_STARTED: &str = "etcdserver: re-configuration failed due to not enough started members";
pub const LEARNER_NOT_READY: &str =
    "etcdserver: can only promote a learner member which is in sync with leader";
pub const MEMBER_NOT_FOUND: &str = "etcdserver: member not found";
pub const NOT_A_LEARNER: &str = "etcdserver: can only promote a learner member";
pub const MEMBER_EXISTS: &str = "etcdserver: Peer URLs already exists";
pub const NO_LEADER: &str = "etcdserver: no leader";
pub const REQUEST_TIMED_OUT: &str = "etcdserver: request timed out";
pub const STILL_LEARNER: &str = "this server has not yet been promoted from learner to voting member";
pub const NEWER_THAN_DATASTORE: &str = "newer than datastore and could cause a cluster outage";
pub const TOMBSTONE_WITHOUT_SERVER: &str = "tombstone file has been detected but --server is empty: backup and delete ${datadir}/server/db to create a new cluster, or set --server to rejoin the cluster";
pub const TOMBSTONE_REJOIN: &str =
    "tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster";
pub const REMOVED: &str =
    "This node has been removed from the cluster - please restart k3s to rejoin the cluster";
pub const PERMANENTLY_REMOVED: &str = "the member has been permanently removed from the cluster";
pub const DATA_DIR_MUST_GO: &str = "data-dir used by this member must be removed";
pub const API_NOT_READY: &str = "failed to wait for API server to become ready";
pub const LEADERELECTION_LOST: &str = "leaderelection lost for k3s";
pub const NODE_PASSWORD_REJECTED: &str = "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag";
pub const RESET_WITH_SERVER: &str = "cannot perform cluster-reset while server URL is set - remove server from configuration before resetting";
pub const RESET_DONE: &str = "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes";
pub const CONTAINERD_EXITED: &str = "containerd exited: exit status 1";
pub const NO_CA_HASH: &str = "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. Use the full token from the server's node-token file to enable Cluster CA validation.";
pub const ETCD_DISABLED: &str = "etcd datastore disabled";
pub const MIGRATING: &str = "Migrating content from sqlite to etcd";
pub const NOT_READY: &str = "runtime core not ready";
pub const LIST_FROM_SERVER: &str = "failed to get MemberList from server";
pub const CONNECTION_REFUSED: &str = "connection refused";
