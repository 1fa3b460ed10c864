import Testing

@testable import raftbench

@Suite("Measured moves") struct MoveBenchTests {
    private static let result = MoveResult(
        bytes: 1 << 20,
        moves: [.init(seconds: 0.25, frozenSeconds: 0.012), .init(seconds: 0.5, frozenSeconds: 0.009)],
        writes: [
            .init(shard: "moved", isMoving: false, latencies: [0.001, 0.003, 0.002]),
            .init(shard: "moved", isMoving: true, latencies: [0.004], failed: 2),
            .init(shard: "unaffected", isMoving: true),
        ])

    @Test("a line for each shard and situation in which anything was written") func table() {
        let lines = MoveResult.table([Self.result]).split(separator: "\n").map {
            $0.split(separator: " ").map(String.init)
        }
        #expect(lines.count == 7)  // blank ones are not counted
        #expect(lines[2] == ["1048576", "2", "0.500", "0.500", "2.000", "12", "12"])
        #expect(lines[5] == ["1048576", "moved", "normal", "3", "0", "2.000", "3.000", "3.000", "3.000"])
        #expect(lines[6].suffix(6) == ["1", "2", "4.000", "4.000", "4.000", "4.000"])
    }

    @Test("the same for programs") func json() {
        #expect(
            MoveResult.json([Self.result])
                == #"{"sizes":[{"shard_bytes":1048576,"move_seconds":[0.250,0.500],"mib_per_second":2.000,"#
                + #""frozen_ms":[12,9],"writes":["#
                + #"{"shard":"moved","moving":false,"writes":3,"failed":0,"#
                + #""p50_ms":2.000,"p99_ms":3.000,"p999_ms":3.000,"max_ms":3.000},"#
                + #"{"shard":"moved","moving":true,"writes":1,"failed":2,"#
                + #""p50_ms":4.000,"p99_ms":4.000,"p999_ms":4.000,"max_ms":4.000}]}]}"# + "\n")
    }

    @Test("how long nobody served a shard, from what the nodes print") func freezes() {
        func line(_ time: String, _ group: String, _ operation: Int, _ step: String) -> String {
            "2000-01-31T\(time)Z info shard step taken group=\(group) operation=\(operation) shard=3 step=\(step)\n"
        }
        var freezes = Freezes()
        freezes.add(
            line("10:00:00.100", "g1", 4, "open") + line("10:00:01.250", "g1", 4, "freeze")
                + "2000-01-31T10:00:01.260Z info leads group=g2 term=3\n" + line("10:00:01.300", "g1", 4, "freeze"))
        freezes.add(line("10:00:01.275", "g2", 4, "adopt") + line("10:00:01.999", "g2", 4, "adopt"))
        #expect(freezes.seconds(of: 4) == 0.025)
        freezes.add(line("23:59:59.990", "g2", 5, "freeze") + line("00:00:00.010", "g1", 5, "adopt"))
        #expect(freezes.seconds(of: 5) == 0.020)
        freezes.add(line("10:00:02.000", "g1", 6, "freeze"))
        #expect(freezes.seconds(of: 6) == nil)
    }

    @Test("numbers in what raftctl prints") func numbers() {
        let text = #"{"id": 7, "state": "done", "begun_ms": 1700000000123, "ended_ms": null}"#
        #expect(MoveBench.number("begun_ms", in: text) == 1_700_000_000_123)
        #expect(MoveBench.number("ended_ms", in: text) == nil)
        #expect(MoveBench.number("other", in: text) == nil)
    }

    @Test("a format that there is not") func format() async throws {
        let (command, arguments) = try Raftbench.parse(["move", "-o", "xml"])
        let error = await #expect(throws: UsageError.self) { _ = try await command.run(arguments) }
        #expect(error?.text == "-o is table or json")
    }
}
