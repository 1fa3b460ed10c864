import CAllocations
import ClusterProcesses
import FlotillaTestSupport
import Glibc
import Testing

@testable import raftbench

@Suite("raftbench budget") struct BudgetTests {
    private func budget(_ thresholds: String, _ measured: [(name: String, allocations: Double)]) throws -> Budget {
        let directory = TemporaryDirectory()
        try Files.write(Array(thresholds.utf8), to: directory.path + "/t")
        return try Budget(thresholds: directory.path + "/t", measured: measured)
    }

    @Test("more than allowed is a complaint, and much less a hint")
    func lines() throws {
        let thresholds = #"{"a": 10, "b": 10.5, "c": 0}"#
        let well = try budget(thresholds, [("a", 10), ("b", 9.6), ("c", 0)])
        #expect(well.complaint == nil && !well.table.contains("clearly less"))
        let less = try budget(thresholds, [("a", 10), ("b", 8), ("c", 0)])
        #expect(less.complaint == nil && less.table.contains("b: clearly less than allowed"))
        let more = try budget(thresholds, [("a", 10.001), ("b", 1), ("c", 0.001)])
        #expect(
            more.complaint
                == "a asks for memory 10.001 times, more than 10.000; c asks for memory 0.001 times, more than 0.000")
        #expect(try budget(thresholds, [("d", 0)]).complaint == "d has no threshold")
    }

    @Test("what is printed as thresholds allows what was measured, and is read again")
    func thresholds() throws {
        let measured = [(name: "a", allocations: 12.345), (name: "b", allocations: 0)]
        let read = try budget(Budget.json(measured), measured)
        #expect(read.complaint == nil && read.lines.map(\.name) == ["a", "b"] && read.lines[1].allowed == 0)
    }

    @Test("a file without thresholds", arguments: ["", "{", "{} {}"])
    func noThresholds(text: String) { #expect(throws: Failed.self) { _ = try budget(text, []) } }

    @Test("allocations are counted by thread", .enabled(if: allocations_are_counted()))
    func threads() async throws {
        let own = number_of_this_thread()
        let before = allocations_of_thread(own)
        var kept: [[UInt8]] = []
        for number in 0..<100 { kept.append([UInt8](repeating: 1, count: 100 + number)) }
        #expect(allocations_of_thread(own) >= before + 100 && kept.count == 100)
        let (least, counted) = (allocations_of_this_thread(), allocations_of_thread(own))
        #expect((least...allocations_of_this_thread()).contains(counted))
        let other = try await onOwnThread { () -> (Int32, UInt64) in
            let memory = malloc(10)
            free(memory)
            return (number_of_this_thread(), allocations_of_this_thread())
        }
        #expect(other.0 != own && allocations_of_thread(other.0) >= other.1, "it stays when the thread has ended")
    }

    @Test(
        "a put is counted on the leader and on its followers", .timeLimit(.minutes(3)),
        .enabled(if: allocations_are_counted()))
    func puts() async throws {
        // a process of its own, for it tells nodes apart by their threads
        let aside = TemporaryDirectory()
        let bench = try ChildProcess(
            Files.besideThisProgram("raftbench"), ["budget", "--requests", "50", "-o", "json"],
            output: aside.path + "/output")
        #expect(try await bench.waitForExit(timeout: .seconds(100)) == 0)
        let values = try #require(JSONValue.all(in: try Files.read(aside.path + "/output"))?.first)
        let names = ["leader_put_alone", "follower_put_alone", "leader_put_of_64", "follower_put_of_64"]
        let counts = try names.map { try #require(values[$0]?.number) }
        // nobody stores a put without memory, and what is shared by 64 is less than what one has alone
        #expect(counts.allSatisfy { $0 > 0.1 && $0 < 10_000 })
        #expect(counts[2] < counts[0] && counts[3] < counts[1])
    }
}
