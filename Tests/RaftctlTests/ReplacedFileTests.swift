import Glibc
import Testing

@testable import raftctl

@Suite("Writing a file of records") struct ReplacedFileTests {
    private let path = "/tmp/raftctl-test-\(getpid())-\(UInt64.random(in: .min ... .max))"

    private func write(_ text: String) async throws {
        _ = try await ReplacedFile(path).write { output throws(Failure) in
            var output = output
            try output.write(text)
            try output.flush()
            return 1
        }
    }

    private func read(_ descriptor: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 100)
        let count = Glibc.read(descriptor, &buffer, buffer.count)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }

    @Test("a file is replaced when all is written, and not before")
    func file() async throws {
        defer { unlink(path) }
        try await write("first")
        await #expect(throws: Failure.self) {
            try await ReplacedFile(path).write { _ throws(Failure) in throw .failed("no more") }
        }
        let descriptor = open(path, O_RDONLY)
        defer { close(descriptor) }
        #expect(read(descriptor) == "first")
        try await write("second")
        let replaced = open(path, O_RDONLY)
        defer { close(replaced) }
        #expect(read(replaced) == "second")
        #expect(access("\(path).partial", F_OK) != 0)
    }

    @Test("a pipe or a device is written to, never replaced by a file")
    func pipe() async throws {
        #expect(mkfifo(path, 0o600) == 0)
        defer { unlink(path) }
        let reader = open(path, O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        try await write("through")
        #expect(read(reader) == "through")
        var status = stat()
        #expect(stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO)
    }
}
