import CAllocations
import RaftCore
import Testing

@testable import raftbench

@Suite("raftbench core") struct CoreBenchTests {
    @Test("every client is answered, again and again, and nothing is lost", arguments: [1, 2, 3, 5], [1, 7, 300])
    func clients(voters: Int, count: Int) {
        var cluster = CoreCluster(voters: voters, clients: ClosedLoopClients(count: count, batch: 4))
        // an answer takes three rounds at most, so everybody gets at least thirty
        for _ in 0..<100 { cluster.round() }
        #expect(cluster.clients.applied >= 30 * count * 4)
        #expect(cluster.clients.applied % 4 == 0)
    }

    @Test("a log that is dropped now and then goes on")
    func compaction() {
        var cluster = CoreCluster(voters: 3, clients: ClosedLoopClients(count: 5000, batch: 10))
        for _ in 0..<40 { cluster.round() }
        // more than a node ever has room for
        #expect(cluster.clients.applied > 1 << 17)
    }

    @Test("the same setting does the same")
    func determinism() {
        func steps() -> Int {
            var cluster = CoreCluster(voters: 3, clients: ClosedLoopClients(count: 10, batch: 1))
            for _ in 0..<50 { cluster.round() }
            return cluster.steps
        }
        #expect(steps() == steps())
    }

    @Test("a client proposes again only after all of its batch is applied")
    func closedLoop() {
        var clients = ClosedLoopClients(count: 2, batch: 4)
        #expect(clients.propose(after: LogIndex(10)) == 8)
        #expect(!clients.isWaiting)
        clients.finish(through: LogIndex(13))
        #expect(!clients.isWaiting && clients.applied == 0)
        clients.finish(through: LogIndex(17))
        #expect(clients.isWaiting && clients.applied == 4)
        #expect(clients.propose(after: LogIndex(18)) == 4)
        clients.finish(through: LogIndex(22))
        #expect(clients.applied == 12)
    }

    @Test("an allocation is counted, on this thread", .enabled(if: allocations_are_counted()))
    func counting() {
        let before = allocations_of_this_thread()
        let array = [UInt8](repeating: 1, count: Int(before % 7) + 100)
        #expect(allocations_of_this_thread() > before && array.count >= 100)
    }

    @Test("a bound on allocations that is broken is said", .enabled(if: allocations_are_counted()))
    func bound() {
        #expect(CoreReport(rows: [row(allocations: 5)], bound: 5).complaint == nil)
        #expect(CoreReport(rows: [row(allocations: 6)], bound: nil).complaint == nil)
        #expect(
            CoreReport(rows: [row(allocations: 6)], bound: 5).complaint == "a run allocated 6 times, more than 5")
    }

    @Test("a row shows its median run")
    func median() {
        var row = CoreRow(voters: 3, clients: 64, batch: 4)
        for proposals in [3000, 1000, 2000] {
            row.note(.init(seconds: 0.5, proposals: proposals, steps: 4000, allocations: 100))
        }
        let figures = row.line.split(separator: " ").map(String.init)
        #expect(figures == ["64", "4", "4000", "2000", "6000", "2.000", "125000.000", "0.050", "0.025"])
    }

    private func row(allocations: UInt64) -> CoreRow {
        var row = CoreRow(voters: 3, clients: 1, batch: 1)
        row.note(.init(seconds: 1, proposals: 1, steps: 1, allocations: allocations))
        return row
    }
}

@Suite("raftbench's command line") struct RaftbenchCommandLineTests {
    @Test("options with and without =; defaults")
    func options() throws {
        let (command, arguments) = try Raftbench.parse(["core", "--clients=1,64", "--seconds", "0.5"])
        #expect(command.name == "core")
        #expect(try arguments.numbers("clients", in: 1...100, default: [3]) == [1, 64])
        #expect(try arguments.numbers("batch", in: 1...100, default: [3]) == [3])
        #expect(try arguments.seconds("seconds", default: 1) == 0.5)
        #expect(try arguments.number("runs", in: 1...9, default: 5) == 5)
    }

    @Test(
        "what is wrong is said",
        arguments: [
            ([], "no command given"),
            (["disk"], "there is no command 'disk'"),
            (["core", "--colour", "red"], "raftbench core has no option '--colour'"),
            (["core", "--runs"], "--runs needs N"),
        ])
    func mistakes(words: [String], text: String) {
        let error = #expect(throws: UsageError.self) { _ = try Raftbench.parse(words) }
        #expect(error?.text == text)
    }

    @Test("a number outside its range is refused", arguments: ["0", "x", "1,,2", "99999999999999999999"])
    func ranges(text: String) async throws {
        let (command, arguments) = try Raftbench.parse(["core", "--clients", text])
        let error = await #expect(throws: UsageError.self) { _ = try await command.run(arguments) }
        #expect(error?.text == "--clients is 1 to 100000")
    }
}
