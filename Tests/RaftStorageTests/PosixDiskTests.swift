import Glibc
import RaftCore
import Testing

@testable import RaftStorage

/// A directory of its own, removed at the end.
final class TemporaryDirectory {
    let path: String

    init() throws {
        var template = Array("/tmp/flotilla-log-XXXXXX".utf8CString)
        path = String(cString: try #require(mkdtemp(&template)))
    }

    deinit {
        guard let disk = try? PosixDisk(directory: path) else { return }
        for name in (try? disk.list()) ?? [] { unlink("\(path)/\(name)") }
        rmdir(path)
    }
}

@Suite("Posix disk") struct PosixDiskTests {
    @Test func logSurvivesOnARealFileSystem() throws {
        let directory = try TemporaryDirectory()
        var model = Model()
        for batch in SampleLog.batches {
            let opened = try Opened(try PosixDisk(directory: directory.path, lockName: "LOCK"), segmentBytes: 8192)
            #expect(try opened.holds(model) && opened.findings.isEmpty)
            try opened.log.write(batch)
            model.apply(batch)
            try opened.log.close()
        }
        let disk = try PosixDisk(directory: directory.path, lockName: "LOCK")
        #expect(try disk.list() == [segmentName(1), "LOCK", "MANIFEST"])
        #expect(try disk.freeBytes() > 0)
        let file = try disk.open(segmentName(1))
        #expect(try file.size() == 8192)
        try file.truncate(to: 10)
        #expect(try file.size() == 10)
    }

    @Test func moreBuffersThanOneCallTakes() throws {
        let directory = try TemporaryDirectory()
        let disk = try PosixDisk(directory: directory.path)
        let entries = (1...1500).map { index in data(Int64(index), String(repeating: "\(index),", count: 100)) }
        let batch = [LogWrite(group: 1, entries: entries)]
        try Opened(disk, segmentBytes: 1 << 16).log.write(batch)
        #expect(try Opened(disk, segmentBytes: 1 << 16).holds(Model().applying(batch)))
    }

    @Test func shortWritesAreContinuedUntilAllIsThere() {
        var random = SeededRandom(seed: 5)
        let parts: [[UInt8]] = (0..<2500).map { number in [UInt8](repeating: UInt8(number % 251), count: number % 7) }
        let expected = Array(parts.joined())
        var file: [UInt8] = []
        var calls = 0
        let isWritten = withBuffers(parts) { buffers in
            PosixFile.write(buffers, at: 100) { vectors, count, offset in
                calls += 1
                #expect(offset == 100 + file.count && count <= 1024)
                if calls % 5 == 0 {
                    errno = EINTR
                    return -1
                }
                let bytes = (0..<Int(count)).flatMap {
                    UnsafeRawBufferPointer(start: vectors[$0].iov_base, count: vectors[$0].iov_len)
                }
                let written = Int(random.number(in: 1..<Int64(bytes.count + 1)))
                file += bytes.prefix(written)
                return written
            }
        }
        #expect(isWritten && file == expected && calls > 5)
    }

    @Test func aFailureBehindAShortWriteIsAFailure() {
        for (result, code, expected) in [(-1, ENOSPC, ENOSPC), (-1, EIO, EIO), (0, 0, EIO)] {
            var calls = 0
            let isWritten = withBuffers([[1, 2, 3], [4, 5]]) { buffers in
                PosixFile.write(buffers, at: 0) { _, _, offset in
                    calls += 1
                    #expect(offset == (calls == 1 ? 0 : 4) && calls <= 2)
                    guard calls == 2 else { return 4 }
                    errno = code
                    return result
                }
            }
            #expect(!isWritten && errno == expected)
        }
    }

    /// Calls `body` with the memory of `parts`.
    private func withBuffers<R>(_ parts: [[UInt8]], _ body: ([UnsafeRawBufferPointer]) -> R) -> R {
        let memory = parts.map { part in
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: part.count, alignment: 1)
            buffer.copyBytes(from: part)
            return buffer
        }
        defer { for buffer in memory { buffer.deallocate() } }
        return body(memory.map { UnsafeRawBufferPointer($0) })
    }

    @Test func directoryHasOneOwner() throws {
        let directory = try TemporaryDirectory()
        do {
            let owner = try PosixDisk(directory: directory.path, lockName: "LOCK")
            #expect(throws: DiskError.locked(path: directory.path)) {
                _ = try PosixDisk(directory: directory.path, lockName: "LOCK")
            }
            #expect(owner.exists("LOCK"))
        }
        _ = try PosixDisk(directory: directory.path, lockName: "LOCK")
    }

    @Test func errorsNameCallAndFile() throws {
        let directory = try TemporaryDirectory()
        let disk = try PosixDisk(directory: directory.path)
        #expect(throws: DiskError.system(call: "open", path: "\(directory.path)/nothing", errno: ENOENT)) {
            _ = try disk.open("nothing")
        }
        _ = try disk.create("something")
        #expect(throws: DiskError.system(call: "open", path: "\(directory.path)/something", errno: EEXIST)) {
            _ = try disk.create("something")
        }
        try disk.rename("something", to: "other")
        try disk.remove("other")
        #expect(try disk.list().isEmpty)
    }

    @Test func missingParentsAreCreated() throws {
        let directory = try TemporaryDirectory()
        let deep = directory.path + "/a/b/c"
        _ = try PosixDisk(directory: deep + "/").create("file")
        #expect(unlink(deep + "/file") == 0)
        for path in [deep, directory.path + "/a/b", directory.path + "/a"] { #expect(rmdir(path) == 0) }
    }

    @Test func readersReadWhileTheWriterWrites() async throws {
        let directory = try TemporaryDirectory()
        let log = try Opened(try PosixDisk(directory: directory.path), segmentBytes: 4096).log
        let last: Int64 = 150
        let reader = Task.detached { () throws -> Int64 in
            var next: Int64 = 1
            while next <= last {
                for entry in try log.entries(of: 1, from: LogIndex(next), count: 7, maxBytes: 1 << 20) {
                    guard entry.payload.text == "entry \(next)" else { return next }
                    next += 1
                }
                await Task.yield()
            }
            return next
        }
        for index in 1...last { try log.write([LogWrite(group: 1, entries: [data(index, "entry \(index)")])]) }
        #expect(try await reader.value == last + 1)
    }
}
