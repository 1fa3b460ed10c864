import Glibc
import RaftCore
import Simulator
import Testing

/// Whole clusters under random trouble: never wrong, and well again and at rest when it is over. `RAFT_SEEDS=n` runs n
/// seeds, `RAFT_FIRST_SEED=k` from k on.
@Suite("A cluster from one seed")
struct SimulationTests {
    static let seeds: Range<UInt64> = {
        func variable(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }
        let first = variable("RAFT_FIRST_SEED") ?? 1
        return first..<first + (variable("RAFT_SEEDS") ?? 8)
    }()

    @Test("Trouble does no harm, and ends", arguments: seeds) func survives(seed: UInt64) {
        let outcome = Simulation(Plan(seed: seed)).run()
        #expect(outcome.violation == nil, "seed \(seed): \(outcome.violation?.description ?? "")")
        #expect(outcome.answered > 100 && outcome.reads > 100 && !outcome.faults.isEmpty)
    }

    @Test("Every kind of fault happens, and does no harm", arguments: FaultKind.allCases) func kinds(kind: FaultKind) {
        // a fault in a hundred steps or so
        var random = SeededRandom(seed: 1)
        let nodes = [.churn, .operate, .schedule].contains(kind) ? 5 : 3
        let schedule = FaultSchedule.random(
            kinds: [kind], nodes: nodes, replicas: 3, steps: 4000, stepsPerFault: 400, &random)
        let outcome = Simulation(Plan(seed: 1, groups: 2, nodes: nodes, steps: 4000, schedule: schedule)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
        #expect(outcome.faults[kind] ?? 0 > 0)
        #expect(outcome.changes > 0 || kind != .churn)
        #expect(outcome.moves > 0 || kind != .operate)
    }

    /// It finds an end, whatever has happened: nothing goes to and fro for ever.
    @Test("The scheduler at work, under faults", arguments: seeds.prefix(4)) func scheduler(seed: UInt64) {
        let kinds = FaultKind.usual + Array(repeating: .schedule, count: 6)
        let outcome = Simulation(Plan(seed: seed, nodes: 5, kinds: kinds)).run()
        #expect(outcome.violation == nil, "seed \(seed): \(outcome.violation?.description ?? "")")
        #expect(outcome.faults[.schedule] ?? 0 > 0)
    }

    /// Nobody else moves or cuts shards here, or makes replicas that need a snapshot.
    @Test("The scheduler does something when nothing else happens") func schedulerActs() {
        let deeds = (1...4 as ClosedRange<UInt64>).map { seed in
            let outcome = Simulation(Plan(seed: seed, groups: 2, nodes: 5, kinds: [.schedule])).run()
            #expect(outcome.violation == nil, "seed \(seed): \(outcome.violation?.description ?? "")")
            return outcome.moves + outcome.cuts + outcome.installs
        }
        #expect(deeds.reduce(0, +) > 0, "\(deeds)")
    }

    @Test("The same seed gives the same run, another seed another one") func determinism() {
        func run(_ seed: UInt64) -> Simulation.Outcome { Simulation(Plan(seed: seed, steps: 5000)).run() }
        let (one, again, other) = (run(1001), run(1001), run(1002))
        #expect(one == again)
        #expect(one.hash != other.hash)
    }

    @Test("A batch counts as durable whose completion comes after the failed sync of a later write")
    func lateCompletion() throws {
        let schedule = try #require(
            FaultSchedule("11965:hanging-disk:3:2:1646:499043,12936:fsync-error:3:2:772:734486"))
        let outcome = Simulation(Plan(seed: 6, groups: 2, nodes: 3, schedule: schedule)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
    }

    /// A controller that leads again gives the orders of an operation again: two answers to the first of them once
    /// counted for the first two, and members were recorded that the group did not have.
    @Test("An answer to an order of an earlier leadership says nothing of the order at hand") func lateAnswer() throws {
        let schedule = try #require(
            FaultSchedule(
                """
                869:partition:6:4:188:371998,908:crash:5:1:49:1042329,6199:partition:5:3:521:492695
                7002:operate:4:5:524:467247,7471:transfer:6:1:612:111608
                """))
        let outcome = Simulation(Plan(seed: 23, groups: 1, nodes: 6, schedule: schedule)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
    }

    /// The destination once asked the same replica of the source as long as that answered, and this one had lost its
    /// log: it never heard of the freeze.
    @Test("A move ends though a replica of its source applies nothing any more") func stuckReplica() throws {
        let schedule = try #require(
            FaultSchedule(
                """
                1481:transfer:2:3:1912:475324,1529:fsync-error:2:5:311:314670,1821:operate:1:2:21:276893
                2337:duplicate:2:4:524:292664,3190:duplicate:5:3:2793:469010,5157:loss:1:2:666:232705
                5396:duplicate:5:1:394:827716,5853:bit-rot:5:4:418:248789,9272:transfer:2:5:609:164639
                11030:operate:1:5:678:1014340,15073:torn-write:5:4:188:1016082,16227:bit-rot:5:2:690:321407
                """))
        let outcome = Simulation(Plan(seed: 1168, groups: 4, nodes: 5, schedule: schedule)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
    }

    /// What was left of such a log once had a gap, and was to be written again as if it had none.
    @Test("A replica that lost its vote and the beginning of its log keeps nothing from being reclaimed")
    func gapBehindTheBase() {
        let outcome = Simulation(Plan(seed: 33)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
    }

    /// An offer that came twice took its own place: the answer to the first said so, and nobody heard the other.
    @Test("A snapshot's offer that is delivered twice is made again") func offerTwice() throws {
        let schedule = try #require(
            FaultSchedule(
                """
                1445:disk-full:1:2:3547:525592,1706:unsynced-lost:1:2:227:441992,3881:partition:2:1:20:900289
                5766:bit-rot:2:1:80:529902,5982:reorder:3:1:2271:182779,6208:hanging-disk:1:3:639:356919
                6667:delay:2:3:381:477615,8460:loss:3:2:742:386003,8689:stall:3:2:2459:894577
                9069:pause:2:3:3839:831851,9928:drift:1:2:491:44052,10154:stop:1:2:795:981186
                10764:hanging-disk:3:1:707:730658,14227:duplicate:1:2:646:65855,16470:disk-full:2:1:1179:770902
                """))
        let outcome = Simulation(Plan(seed: 188, groups: 3, nodes: 3, steps: 20_000, schedule: schedule)).run()
        #expect(outcome.violation == nil, "\(outcome.violation?.description ?? "")")
    }

    @Test("A cluster that cannot heal is reported") func unhealed() {
        // more rot than a majority survives
        let schedule = FaultSchedule(
            (2...3).map { Fault(step: 6000, kind: .bitRot, node: $0, other: 1, milliseconds: 10, amount: 19_600) })
        let plan = Plan(seed: 7, groups: 1, nodes: 3, steps: 10_000, schedule: schedule)
        #expect(Simulation(plan).run().violation?.checker == "Heals")
    }
}
