import Foundation
import RaftCore
import RaftStorage
import Testing

@Suite("Folders for snapshots")
struct SnapshotStoreTests {
    private func fill(_ folder: StoredFolder) throws {
        try folder.append(Bytes("one"), to: "b")
        try folder.append(Bytes("two"), to: "b")
        try folder.write(Bytes("late"), to: "a", at: 4)
        try folder.write(Bytes("soon"), to: "a", at: 0)
    }

    private func check(_ folder: StoredFolder) throws {
        #expect(try folder.fileNames() == ["a", "b"])
        #expect(try folder.contents(of: "b").text == "onetwo" && folder.contents(of: "a").text == "soonlate")
        #expect(try folder.read("a", at: 6, count: 100).text == "te" && folder.read("a", at: 8, count: 1).isEmpty)
        let inventory = try folder.inventory()
        #expect(inventory.map(\.byteCount) == [8, 6])
        #expect(inventory[1].checksum == CRC32C.checksum(Bytes("onetwo")))
    }

    private func roundTrip(_ disk: any Disk) throws {
        let store = SnapshotStore(disk: disk)
        let folder = try store.makeFolder("x")
        try fill(folder)
        try folder.sync()
        try check(folder)
        try check(try store.folder("x"))
        _ = try store.makeFolder("y")
        #expect(try store.names() == ["x", "y"])
        #expect(try store.makeFolder("x").fileNames() == [])
        try store.remove("x")
        try store.remove("never there")
        #expect(try store.names() == ["y"])
    }

    @Test("Of a folder of hundreds of files a few are open at a time, whoever writes and reads them in turn")
    func manyFiles() throws {
        let directory = try TemporaryDirectory()
        let folder = try SnapshotStore(disk: try PosixDisk(directory: directory.path)).makeFolder("x")
        // of this folder alone: other tests open files meanwhile
        func open() throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count {
                let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")
                return target?.hasPrefix(directory.path) ?? false
            }
        }
        for round in 0..<2 {
            for number in 0..<200 { try folder.append(Bytes("\(number) \(round);"), to: "f\(number)") }
        }
        try folder.sync()
        for number in 0..<200 {
            #expect(try folder.contents(of: "f\(number)").text == "\(number) 0;\(number) 1;")
        }
        // directories are open, too
        #expect(try open() <= 12)
    }

    @Test("A file is synced before it is closed to make room for another: else its error would never be heard")
    func syncedWhenClosed() throws {
        let disk = MemoryDisk(seed: 1)
        let folder = try SnapshotStore(disk: disk).makeFolder("x")
        disk.failsSyncs = true
        for number in 0..<8 { try folder.write(Bytes("\(number)"), to: "f\(number)", at: 0) }
        #expect(throws: StateMachineError.self) { try folder.write(Bytes("8"), to: "f8", at: 0) }
        disk.failsSyncs = false
        // what is only read is not synced
        let other = try SnapshotStore(disk: disk).makeFolder("y")
        for number in 0..<9 { try other.write(Bytes("\(number)"), to: "f\(number)", at: 0) }
        try other.sync()
        disk.failsSyncs = true
        for number in 0..<9 { #expect(try other.contents(of: "f\(number)").text == "\(number)") }
    }

    @Test("Names that are the same text in other bytes are two files") func equalNames() throws {
        let directory = try TemporaryDirectory()
        let folder = try SnapshotStore(disk: try PosixDisk(directory: directory.path)).makeFolder("x")
        let names = ["\u{e9}", "e\u{301}"]
        try folder.append(Bytes("one"), to: names[0])
        try folder.write(Bytes("other"), to: names[1], at: 0)
        #expect(try folder.fileNames().count == 2)
        #expect(try names.map { try folder.contents(of: $0).text } == ["one", "other"])
        // ascending by bytes, whatever the order in which they came
        #expect(try folder.inventory().map(\.byteCount) == [5, 3])
        #expect(try folder.fileNames().map { Array($0.utf8) } == [[0x65, 0xcc, 0x81], [0xc3, 0xa9]])
        try folder.sync()
        let files = names.map { StoredFolder.File(name: $0, byteCount: 1, checksum: 2) }
        #expect(files[0] != files[1] && files[0] == files[0])
        #expect(StoredFolder.file(names[1], of: files) == files[1])
    }

    @Test func inMemory() throws { try roundTrip(MemoryDisk(seed: 1)) }

    @Test func inTheFileSystem() throws {
        let directory = try TemporaryDirectory()
        try roundTrip(try PosixDisk(directory: directory.path))
    }

    @Test("After a loss of power a folder is there with all of its files if it was synced, and gone if it never was")
    func crash() throws {
        let disk = MemoryDisk(seed: 1)
        let store = SnapshotStore(disk: disk)
        let kept = try store.makeFolder("kept")
        try fill(kept)
        try kept.sync()
        try kept.append(Bytes("lost"), to: "b")
        let lost = try store.makeFolder("lost")
        try fill(lost)
        disk.crash(.everything)
        #expect(try store.names() == ["kept"])
        try check(try store.folder("kept"))
        // files that were synced in a directory that was not
        let half = try disk.folder("half")
        let file = try half.create("file")
        try file.sync()
        try half.syncDirectory()
        disk.crash(.everything)
        #expect(try disk.folders() == ["kept"] && disk.list() == [])
    }
}
