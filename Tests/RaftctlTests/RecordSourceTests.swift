import Glibc
import Testing

@testable import raftctl

@Suite("Reading records") struct RecordSourceTests {
    private func batches(_ text: String) async throws -> (keys: [[String]], failure: Failure?) {
        let path = "/tmp/raftctl-test-\(getpid())-\(UInt64.random(in: .min ... .max)).tsv"
        let stream = try #require(fopen(path, "w"))
        defer { unlink(path) }
        fputs(text, stream)
        fclose(stream)
        let source = try RecordSource(path: path, format: .tsv)
        var keys: [[String]] = []
        do throws(Failure) {
            while let batch = try await source.nextBatch() { keys.append(batch.records.map(\.key.text)) }
            return (keys, nil)
        } catch {
            return (keys, error)
        }
    }

    @Test("what stands before a malformed line is delivered before the failure, which names the line")
    func malformed() async throws {
        let (keys, failure) = try await batches("a\t1\n\nb\t2\nbad\nc\t3\n")
        #expect(keys == [["a", "b"]])
        #expect(failure?.status == .failed && failure?.message.contains("line 4: no tab") == true)
    }

    @Test("a batch is at most 64 records, and ends before a key it has")
    func cuts() async throws {
        let many = (0..<100).map { "k\($0)\tv\n" }.joined()
        #expect(try await batches(many).keys.map(\.count) == [64, 36])
        #expect(try await batches("a\t1\nb\t1\na\t2\na\t3").keys == [["a", "b"], ["a"], ["a"]])
    }

    @Test("a file that is not there is a failure")
    func absent() {
        #expect(throws: Failure.self) { try RecordSource(path: "/nonexistent/file", format: .tsv) }
    }
}

@Suite("Reading lines") struct LineReaderTests {
    @Test("lines of a file: long ones, empty ones, carriage returns, no end at the end")
    func lines() throws {
        let long = String(repeating: "x", count: 700_000)
        let reader = try Self.file("a\r\n\n\(long)\nb")
        defer { fclose(reader.stream) }
        var lines = LineReader(fileno(reader.stream))
        var seen: [Int] = []
        while let count = try lines.next({ $0.count }) { seen.append(count) }
        #expect(seen == [1, 0, 700_000, 1])
        #expect(lines.number == 4)
    }

    private static func file(_ text: String) throws -> (stream: UnsafeMutablePointer<FILE>, count: Int) {
        let stream = try #require(tmpfile())
        let count = fputs(text, stream)
        fflush(stream)
        rewind(stream)
        lseek(fileno(stream), 0, SEEK_SET)
        return (stream, Int(count))
    }
}
