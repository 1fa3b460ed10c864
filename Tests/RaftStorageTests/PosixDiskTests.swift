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
