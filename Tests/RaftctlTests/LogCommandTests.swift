import Glibc
import RaftCore
import RaftStorage
import Testing

@testable import raftctl

@Suite("Log commands") struct LogCommandTests {
    /// A data directory with a log of two groups, removed at the end.
    private final class Directory {
        let path: String
        var segment: String { "\(path)/log/00000000000000000001.log" }

        init() throws {
            var template = Array("/tmp/raftctl-log-XXXXXX".utf8CString)
            path = String(cString: try #require(mkdtemp(&template)))
            let settings = WriteAheadLog.Settings(segmentBytes: 4096, reserveBytes: 0, identity: 7)
            let (log, _) = try WriteAheadLog.open(
                disk: PosixDisk(directory: "\(path)/log"), settings: settings, log: { _ in })
            for group in 1...2 as ClosedRange<LogGroup> {
                let position = LogPosition(term: Term(1), index: LogIndex(1))
                let entry = LogEntry(position: position, kind: .data, payload: Bytes("payload of \(group)"))
                try log.write([LogWrite(group: group, hardState: HardState(term: Term(1), vote: nil), entries: [entry])]
                )
            }
            try log.close()
        }

        deinit {
            for name in (try? PosixDisk(reading: "\(path)/log").list()) ?? [] { unlink("\(path)/log/\(name)") }
            rmdir("\(path)/log")
            rmdir(path)
        }

        func damage() throws {
            let descriptor = open(segment, O_RDWR)
            defer { close(descriptor) }
            var bytes = [UInt8](repeating: 0, count: 4096)
            try #require(pread(descriptor, &bytes, 4096, 0) == 4096)
            let place = try #require(bytes.firstRange(of: Array("payload of 2".utf8))).lowerBound
            var flipped = bytes[place] ^ 1
            try #require(pwrite(descriptor, &flipped, 1, off_t(place)) == 1)
        }

        func report() throws -> LogReport { try LogInspection.verify(PosixDisk(reading: "\(path)/log")) }

        func items(_ file: String? = nil) throws -> [LogItem] {
            var items: [LogItem] = []
            try LogInspection.dump(PosixDisk(reading: "\(path)/log"), file: file) { items.append($0) }
            return items
        }
    }

    private func run(_ line: String) async throws(Failure) {
        let words = line.split(separator: " ").map(String.init)
        guard case .run(let command, let call) = try CommandLineParser(environment: { _ in nil }).parse(words) else {
            return
        }
        try await command.run(call)
    }

    @Test("a whole log: what it holds, and nothing else")
    func whole() async throws {
        let directory = try Directory()
        let report = try directory.report()
        #expect(
            report.text == "1 segments, 4096 bytes, 3 batches, 4 records, 2 groups\nwhole" && report.isWhole)
        #expect(report.json.text.hasPrefix("{\"whole\":true,\"segments\":1,"))
        for place in [directory.path, "\(directory.path)/log"] {
            try await run("log verify \(place)")
            try await run("log dump -o json \(place)")
        }
        try await run("log dump \(directory.segment)")
    }

    @Test("a damaged log: where, who is hurt, status 1; not a byte is written")
    func damaged() async throws {
        let directory = try Directory()
        try directory.damage()
        let before = try directory.items().map(\.text)
        let report = try directory.report()
        #expect(!report.isWhole && Array(report.hurt.keys) == [2])
        let last = report.text.split(separator: "\n").last
        #expect(
            last == "hurt: group 2 has lost what it promised" || last == "hurt: group 2 has lost entries, of up to 1@1")
        #expect(report.text.contains("damage: 00000000000000000001.log at "))
        #expect(report.json.text.contains("\"hurt\":[{\"group\":2,"))
        await #expect { try await run("log verify \(directory.path)") } throws: {
            guard let failure = $0 as? Failure else { return false }
            return failure.status == .failed && failure.message.contains("1 group is hurt")
        }
        #expect(try directory.items().map(\.text) == before)
        #expect(before.filter { $0.hasSuffix("BROKEN") }.count == 2)
    }

    @Test("a dump names segment, batches and records")
    func dump() throws {
        let lines = try Directory().items("00000000000000000001.log").map(\.text)
        #expect(lines[0] == "00000000000000000001.log segment 1, 4096 bytes")
        #expect(lines[1] == "  64 batch 1, 0 records, 88 bytes")
        #expect(lines[3] == "    268 hard-state group 1 0@1, 36 bytes")
        #expect(lines[4] == "    304 data group 1 1@1, 48 bytes")
    }

    @Test("what is no log is refused with its name")
    func refusals() async throws {
        let directory = try Directory()
        for (line, text) in [
            ("log verify /nowhere/at/all", "/nowhere/at/all: No such file"),
            ("log verify /usr/lib", "MANIFEST: No such file"),
            ("log dump /etc/passwd", "it does not begin as a segment"),
            ("log verify \(directory.segment)", "is a file"),
        ] {
            await #expect { try await run(line) } throws: { ($0 as? Failure)?.message.contains(text) == true }
        }
    }
}
