import ClusterProcesses
import FlotillaTestSupport
import Glibc
import Testing

@Suite("raftbench that is ended in the middle", .serialized) struct ProcessGuardTests {
    @Test("leaves no process and no directory", .timeLimit(.minutes(2)), arguments: [SIGTERM, SIGINT, SIGKILL])
    func leavesNothing(signal: Int32) async throws {
        let (place, aside) = (TemporaryDirectory(), TemporaryDirectory())
        let bench = try ChildProcess(
            "/usr/bin/env",
            [
                "TMPDIR=\(place.path)", Files.besideThisProgram("raftbench"), "idle", "--groups", "3", "--settle", "60",
                "--seconds", "60",
            ], output: aside.path + "/output")
        try await wait("three nodes") { try Self.nodes(in: place.path).count >= 3 }
        #expect(try !Files.list(place.path).isEmpty)

        bench.signal(signal)
        let status = try await bench.waitForExit()
        if signal == SIGKILL {
            #expect(status == -SIGKILL)
            // it could do nothing itself: its guard does, a moment later
            try await wait("no node") { try Self.nodes(in: place.path).isEmpty }
            try await wait("no directory") { try Files.list(place.path).isEmpty }
        } else {
            #expect(status == 128 + signal)
            #expect(try Self.nodes(in: place.path).isEmpty && Files.list(place.path).isEmpty)
        }
    }

    @Test("and one that comes to its end by itself leaves nothing either", .timeLimit(.minutes(2)))
    func ordinaryEnd() async throws {
        let (place, aside) = (TemporaryDirectory(), TemporaryDirectory())
        let bench = try ChildProcess(
            "/usr/bin/env",
            [
                "TMPDIR=\(place.path)", Files.besideThisProgram("raftbench"), "kv", "--groups", "1", "--keys", "10",
                "--seconds", "0.2", "--warmup", "0.1", "-o", "json",
            ], output: aside.path + "/output")
        #expect(try await bench.waitForExit(timeout: .seconds(100)) == 0)
        #expect(try Self.nodes(in: place.path).isEmpty && Files.list(place.path).isEmpty)
        // what is printed says under which conditions it was measured
        let text = try Files.text(aside.path + "/output")
        #expect(text.hasPrefix("{\"command\":\"kv\",\"arguments\":[\"kv\",\"--groups\",\"1\","))
        #expect(text.contains("\"machine\":\"") && text.contains("\"date\":\"20"))
    }

    /// Numbers of processes that have `directory` in their command line, apart from programs that were given it.
    private static func nodes(in directory: String) throws -> [String] {
        try Files.list("/proc").filter { name in
            guard name.allSatisfy(\.isNumber), let line = try? Files.text("/proc/\(name)/cmdline") else { return false }
            return line.contains("--data-dir") && line.contains(directory)
        }
    }

    private func wait(_ what: String, until isSo: () throws -> Bool) async throws {
        let end = ContinuousClock.now + .seconds(60)
        while try !isSo() {
            guard ContinuousClock.now < end else { throw Failed("not seen: \(what)") }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}
