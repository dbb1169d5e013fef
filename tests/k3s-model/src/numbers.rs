//! Every period and limit of the model in one place, in milliseconds.

/// What `MemberAdd` asks of the voters before it lets a learner in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddRule {
    /// etcd 3.6.14: quorum of n + 1 voters connected, n = 1 exempt.
    QuorumOfNext,
    /// etcd 3.4 and 3.5: every voter connected.
    AllVoters,
}

/// How long things take. Only the promotion tick and the eviction are ever scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Resolution of the model.
    pub step: u64,
    /// The leader tries to promote a learner this often, counted from its own start.
    pub promotion_tick: u64,
    /// A learner without progress for longer is removed.
    pub eviction: u64,
    /// Process start until the bootstrap data is there.
    pub boot: u64,
    /// Period of the join loop; it has no limit.
    pub join_retry: u64,
    /// A member that was added starts its etcd this much later.
    pub etcd_start: u64,
    /// A started etcd answers reads and has published its name after this time.
    pub settle: u64,
    /// A peer counts as connected for a member add after this time.
    pub connected: u64,
    /// Without a leader, the next one is there after this time.
    pub election: u64,
    /// Quorum and voter until API, READY=1 and the labels on the Node.
    pub api: u64,
    /// A joiner's kubelet registers its Node this long after the bootstrap data is there.
    pub kubelet: u64,
    /// A live removed member notices and leaves after this time.
    pub removal_notice: u64,
    /// A server that was ready leaves when the quorum is gone for this long.
    pub quorum_exit: u64,
    /// A server that never became ready leaves after this time.
    pub api_wait: u64,
    /// Ready of a silent Node turns Unknown.
    pub node_grace: u64,
    pub add_rule: AddRule,
}

impl Numbers {
    /// As read and seen on a real k3s.
    pub const REAL: Self = Self {
        step: 250,
        promotion_tick: 15_000,
        eviction: 300_000,
        boot: 1_000,
        join_retry: 1_000,
        etcd_start: 1_500,
        settle: 2_000,
        connected: 5_000,
        election: 7_000,
        api: 2_500,
        kubelet: 2_000,
        removal_notice: 3_000,
        quorum_exit: 60_000,
        api_wait: 900_000,
        node_grace: 45_000,
        add_rule: AddRule::QuorumOfNext,
    };

    /// As the stand-in runs: tick and eviction divided by five, nothing else.
    pub const SCALED: Self = Self { promotion_tick: 3_000, eviction: 60_000, ..Self::REAL };
}
