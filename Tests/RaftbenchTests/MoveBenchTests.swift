import Testing

@testable import raftbench

@Suite("Measured moves") struct MoveBenchTests {
    private static let result = MoveResult(
        bytes: 1 << 20, moves: [0.25, 0.5],
        writes: [
            .init(shard: "moved", isMoving: false, latencies: [0.001, 0.003, 0.002]),
            .init(shard: "moved", isMoving: true, latencies: [0.004], failed: 2),
            .init(shard: "unaffected", isMoving: true),
        ])

    @Test("a line for each shard and situation in which anything was written") func table() {
        let lines = MoveResult.table([Self.result]).split(separator: "\n").map {
            $0.split(separator: " ").map(String.init)
        }
        #expect(lines.count == 4)
        #expect(
            lines[2] == [
                "1048576", "2", "0.500", "0.500", "moved", "normal", "3", "0", "2.000", "3.000", "3.000", "3.000",
            ])
        #expect(lines[3].suffix(6) == ["1", "2", "4.000", "4.000", "4.000", "4.000"])
    }

    @Test("the same for programs") func json() {
        #expect(
            MoveResult.json([Self.result])
                == #"{"sizes":[{"shard_bytes":1048576,"move_seconds":[0.250,0.500],"writes":["#
                + #"{"shard":"moved","moving":false,"writes":3,"failed":0,"#
                + #""p50_ms":2.000,"p99_ms":3.000,"p999_ms":3.000,"max_ms":3.000},"#
                + #"{"shard":"moved","moving":true,"writes":1,"failed":2,"#
                + #""p50_ms":4.000,"p99_ms":4.000,"p999_ms":4.000,"max_ms":4.000}]}]}"# + "\n")
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
