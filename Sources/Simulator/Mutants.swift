#if MUTANTS
    import RaftCore

    /// A bug on purpose, and where the simulation is to find it. The table holds every site of `planted(` in the
    /// sources, and nothing else; `tools/mutants` sees to that.
    public struct Mutant: Sendable {
        /// Which simulation looks for it.
        public enum Stage: Sendable {
            /// Whole nodes, with faults of these kinds.
            case nodes([FaultKind])
            /// Cores alone.
            case cores(CoreLifeKind)
        }

        /// Its name, in the table and at its site.
        public var name: String
        /// What is wrong.
        public var flaw: String
        /// Where it is looked for.
        public var stage: Stage
        /// The most seeds that it may take.
        public var seeds: UInt64
        /// Whether it may end the process: a state that the code rules out, and that nothing outside could see earlier.
        public var traps: Bool

        private init(_ name: String, _ flaw: String, _ stage: Stage, seeds: UInt64 = 200, traps: Bool = false) {
            (self.name, self.flaw, self.stage, self.seeds, self.traps) = (name, flaw, stage, seeds, traps)
        }

        /// Plants the bug in this process and runs seed after seed; what the first checker that sees it says, and with
        /// which seed.
        public func hunt(announce: (UInt64) -> Void) -> (violation: Violation, seeds: UInt64)? {
            PlantedBug.plant(name)
            for seed in 1...seeds {
                announce(seed)
                if let violation = violation(seed) { return (violation, seed) }
            }
            return nil
        }

        private func violation(_ seed: UInt64) -> Violation? {
            switch stage {
            case .nodes(let kinds): return Simulation(Plan(seed: seed, kinds: kinds)).run().violation
            case .cores(let kind):
                var simulation = CoreSimulation(CorePlan(seed: seed, life: kind))
                return simulation.run().violation
            }
        }
    }

    extension Mutant {
        /// All of them, by what they break.
        public static let table =
            elections + loyalty + replication + disks + memberships + snapshots + reads + leases + promises + logs
            + services + moves

        private static let elections = [
            Mutant("vote-not-persisted", "the vote is not in the hard state", .cores(.everything)),
            Mutant("term-not-persisted", "a term without a vote is not in the hard state", .cores(.everything)),
            Mutant("two-votes-in-a-term", "whoever asks gets a vote", .cores(.everything)),
            Mutant("vote-for-shorter-logs", "a vote does not look at the candidate's log", .cores(.overwrites)),
            Mutant("logs-compared-by-length", "a longer log is better, whatever its terms", .cores(.overwrites)),
            Mutant("pre-votes-count-as-votes", "a late pre-vote elects a candidate", .cores(.delays)),
            Mutant(
                "votes-of-other-terms-count", "a late vote of an earlier term elects a candidate", .cores(.loyalty),
                seeds: 400),
            Mutant("vote-answered-before-durable", "a vote leaves before the disk has it", .cores(.slowDisks)),
            Mutant(
                "candidate-asks-before-its-vote-is-durable", "a candidate asks before the disk has its own vote",
                .cores(.slowDisks)),
            Mutant("witness-campaigns", "a witness stands for election", .cores(.everything)),
            Mutant("debt-is-forgotten-in-votes", "a damaged voter votes by what is left", .cores(.damage)),
            Mutant("debtor-campaigns", "a damaged replica stands for election", .cores(.damage)),
            Mutant(
                "debt-paid-before-durable", "a debt is paid by entries that the disk does not have", .cores(.damage)),
            Mutant("half-is-a-majority", "half of an even number of voters decides", .cores(.everything)),
        ]

        private static let loyalty = [
            Mutant("loyal-to-nobody", "a promise to the leader's node binds no vote", .cores(.everything)),
            Mutant("loyal-to-any-run", "loyalty outlives the promise and the process of the leader", .cores(.changes)),
            Mutant(
                "late-votes-end-loyalty", "a vote that the leader asked for before it led ends loyalty",
                .cores(.loyalty), seeds: 400),
            Mutant("no-release", "a leader that leads no more tells nobody", .cores(.changes)),
            Mutant("anybody-releases", "a release by another leader ends loyalty", .cores(.loyalty), seeds: 400),
            Mutant("old-releases-count", "a release of an earlier term ends loyalty", .cores(.loyalty), seeds: 1500),
            Mutant("deposed-leaders-are-heard", "entries of an earlier term's leader are taken", .cores(.everything)),
        ]

        private static let replication = [
            Mutant("previous-term-unchecked", "entries are taken behind another entry", .cores(.overwrites)),
            Mutant("append-cuts-what-it-knows", "an old append cuts off what came after it", .cores(.delays)),
            Mutant(
                "commit-beyond-what-matches", "a follower commits entries that the leader never sent", .cores(.reads)),
            Mutant("refusals-count-as-success", "a refused append counts for the commit", .cores(.everything)),
            Mutant("answers-to-older-terms-count", "an answer to an earlier leadership counts", .cores(.delays)),
            Mutant(
                "old-terms-committed-by-counting", "an earlier term's entry is committed by counting (Figure 8)",
                .cores(.overwrites)),
            Mutant(
                "leader-counts-itself-before-durable", "the leader's own disk counts before it has the entry",
                .cores(.slowDisks)),
        ]

        private static let disks = [
            Mutant(
                "acknowledge-before-durable", "entries are acknowledged before the disk has them", .cores(.slowDisks)),
            Mutant(
                "probe-vouches-for-what-is-not-durable", "the answer to a probe vouches for writes under way",
                .cores(.slowDisks)),
            Mutant("marks-of-any-leader", "a write under an earlier leader vouches for this one's", .cores(.slowDisks)),
            Mutant("apply-before-durable", "entries are applied before the own disk has them", .cores(.slowDisks)),
        ]

        private static let memberships = [
            Mutant("joint-stage-skipped", "any change is made in one step", .cores(.changes)),
            Mutant("joint-counts-the-new-only", "while joint the new voters decide alone", .cores(.changes)),
            Mutant("joint-counts-the-old-only", "while joint the old voters decide alone", .cores(.changes)),
            Mutant("joint-counted-as-one", "while joint one majority of all decides", .cores(.changes)),
            Mutant(
                "final-before-joint-is-committed", "the joint stage ends before it is committed", .cores(.changes)),
            Mutant("changes-overlap", "a change begins while another is under way", .cores(.changes)),
            Mutant("change-before-own-term", "a change begins before an entry of the own term", .cores(.changes)),
            Mutant("learners-and-leavers-count", "whoever gets the log counts for commits", .cores(.changes)),
            Mutant(
                "membership-waits-for-commit", "a follower ignores a membership not yet committed", .cores(.changes)),
        ]

        private static let snapshots = [
            Mutant("snapshot-answered-before-durable", "a snapshot is acknowledged too early", .cores(.snapshots)),
            Mutant(
                "snapshot-durable-at-once", "a snapshot under way counts as durable", .cores(.snapshots), seeds: 1000),
            Mutant("snapshot-goes-back", "a snapshot older than the state is installed", .cores(.snapshots)),
            Mutant(
                "snapshot-drops-what-continues-it", "entries behind a snapshot are dropped", .cores(.everything),
                seeds: 600),
            Mutant(
                "session-table-lost-in-a-snapshot", "a snapshot leaves the sessions behind",
                .nodes([.crash, .partition, .loss])),
            Mutant("snapshot-keeps-what-conflicts", "entries that contradict a snapshot are kept", .cores(.snapshots)),
        ]

        private static let reads = [
            Mutant("read-without-asking", "a leader reads without asking anybody", .cores(.handOvers)),
            Mutant("read-before-own-term", "a leader reads before an entry of its own term", .cores(.everything)),
            Mutant("any-answer-confirms", "an answer from before a read confirms it", .cores(.handOvers)),
            Mutant("read-joins-the-round-under-way", "a read shares a round that began before it", .cores(.reads)),
            Mutant("deposed-leader-answers-reads", "reads are answered when the leadership ends", .cores(.handOvers)),
            Mutant("follower-reads-by-itself", "a follower reads without asking", .cores(.reads)),
            Mutant(
                "follower-reads-share-an-old-question", "a read shares a question that was asked before it",
                .cores(.reads)),
            Mutant("read-before-applied", "a read does not wait for the state machine", .nodes(FaultKind.allCases)),
        ]

        private static let leases = [
            Mutant("lease-without-quorum", "who leads has the lease", .cores(.everything)),
            Mutant(
                "lease-without-acceptance", "promises count without the replica's acceptance", .cores(.reads),
                seeds: 400),
            Mutant("lease-without-looking-again", "a promise counts for ever", .cores(.everything)),
            Mutant(
                "lease-judged-before-evaluation",
                "a lease is judged by the turn's reading of the clock, not afterwards",
                .nodes([.stall])),
            Mutant("lease-kept-while-handing-over", "the lease outlives a TimeoutNow", .cores(.handOvers)),
        ]

        private static let promises = [
            Mutant("asker-counts-from-the-answer", "a promise is counted from its answer", .cores(.everything)),
            Mutant("supporter-counts-half", "a supporter keeps half of what it promised", .cores(.everything)),
            Mutant("epochs-are-reused", "a promise that has ended stands again", .cores(.everything)),
            Mutant("new-runs-keep-promises", "promises outlive the process", .cores(.everything)),
            Mutant("restarted-node-is-not-quiet", "a started node votes at once", .cores(.restarts)),
        ]

        private static let logs = [
            Mutant("log-does-not-sync", "the log is written and not synced", .nodes([.unsyncedLost])),
            Mutant(
                "hard-state-is-not-logged", "terms and votes are not written", .nodes([.crash]), traps: true),
            Mutant(
                "truncation-is-not-logged", "what is cut off comes back", .nodes([.partition, .crash]), traps: true),
            Mutant("torn-batches-are-believed", "a torn tail is read as if it were whole", .nodes([.tornWrite])),
            Mutant(
                "unproven-tail-is-not-written-again", "what a crash left unsynced counts as durable",
                .nodes([.crash])),
            Mutant("duties-before-the-write", "acknowledgements do not wait for the log", .nodes([.slowDisk])),
        ]

        private static let services = [
            Mutant("apply-depends-on-the-node", "one node applies something else now and then", .nodes([.loss])),
            Mutant(
                "repetitions-are-executed", "a write that comes again is executed again", .nodes([.loss, .partition])),
            Mutant(
                "old-repetitions-are-executed", "a write that was answered and forgotten is executed again",
                .nodes([.duplicate])),
            Mutant("replies-are-not-remembered", "the session does not keep replies", .nodes([.loss, .partition])),
            Mutant(
                "replies-are-lost-at-a-restart", "the session does not outlive the process",
                .nodes([.crash, .loss, .partition])),
            Mutant("repetitions-get-new-numbers", "a write tried again is another write", .nodes([.loss, .partition])),
            Mutant(
                "lost-writes-are-called-refused", "the router calls an unknown outcome a refusal",
                .nodes([.loss, .partition])),
            Mutant(
                "unknown-outcomes-are-called-refused", "a leader that falls calls its proposals refused",
                .nodes([.transfer, .partition])),
        ]

        private static let moves = [
            Mutant(
                "changes-are-not-remembered", "what changes while a shard is copied stays behind", .nodes([.operate])),
            Mutant(
                "sessions-stay-behind", "a shard moves without its sessions", .nodes([.operate, .loss, .partition])),
            Mutant(
                "frozen-shards-are-read", "a source reads what its new owner may have changed",
                .nodes([.operate, .partition])),
            Mutant("frozen-shards-take-writes", "a source writes to what it has given away", .nodes([.operate])),
            Mutant("an-abort-leaves-the-epoch", "a shard that stays goes on under its old epoch", .nodes([.operate])),
        ]
    }
#endif
