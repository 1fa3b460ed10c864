import Foundation
import RaftCore
import RocksEngine
import Testing

@testable import ShardKV

@Suite("What a disk made of the store is told, never served")
struct StoreDamageTests {
    static let count = 2000

    static func key(_ number: Int) -> Bytes { ReplicaKeys.key(of: 1, Bytes("key\(100_000 + number)")) }

    /// A value that no compression makes shorter.
    static func value(_ number: Int) -> Bytes {
        var random = SeededRandom(seed: UInt64(number))
        return Bytes((0..<40).map { _ in UInt8(truncatingIfNeeded: random.next()) })
    }

    /// A closed store with one file of data in `directory`; its path.
    static func make(in directory: TemporaryDirectory) throws -> String {
        let path = directory.path + "/whole"
        let engine = try RocksEngine(directory: path)
        try engine.write((0..<count).map { .put(key($0), value($0)) })
        try engine.flush()
        engine.close()
        return path
    }

    static func files(_ path: String, where isWanted: (String) -> Bool) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: path).filter(isWanted).sorted()
    }

    /// Runs `body` on a copy of the store whose `file` was changed; nil removes it.
    static func withDamaged(
        _ path: String, _ file: String, _ change: ([UInt8]) -> [UInt8]?, _ body: (String) throws -> Void
    ) throws {
        let copy = path + "-damaged"
        try? FileManager.default.removeItem(atPath: copy)
        try FileManager.default.copyItem(atPath: path, toPath: copy)
        let bytes = [UInt8](try #require(FileManager.default.contents(atPath: copy + "/" + file)))
        try FileManager.default.removeItem(atPath: copy + "/" + file)
        if let changed = change(bytes) {
            #expect(FileManager.default.createFile(atPath: copy + "/" + file, contents: Data(changed)))
        }
        try body(copy)
    }

    @Test("A byte changed anywhere in a file of data: every read tells the truth or fails")
    func tables() throws {
        let directory = try TemporaryDirectory()
        let path = try StoreDamageTests.make(in: directory)
        let tables = try StoreDamageTests.files(path) { $0.hasSuffix(".sst") }
        #expect(tables.count == 1)
        let size = try #require(FileManager.default.contents(atPath: path + "/" + tables[0])).count
        var outcomes = (opened: 0, failedGets: 0, failedScans: 0, refused: 0)
        let places = Array(stride(from: 100, to: size - 60, by: size / 23)) + Array((size - 60)..<size)
        for place in places {
            func flipped(_ bytes: [UInt8]) -> [UInt8] {
                var bytes = bytes
                bytes[place] ^= 0x20
                return bytes
            }
            try StoreDamageTests.withDamaged(path, tables[0], flipped) { copy in
                let engine: RocksEngine
                do throws(StateMachineError) { engine = try RocksEngine(directory: copy) } catch {
                    #expect(error.description.contains("move the directory away"))
                    outcomes.refused += 1
                    return
                }
                defer { engine.close() }
                outcomes.opened += 1
                for number in stride(from: 0, to: StoreDamageTests.count, by: 7) {
                    do throws(StateMachineError) {
                        let value = try engine.get(StoreDamageTests.key(number))
                        #expect(value == StoreDamageTests.value(number))
                        let durable = try engine.durableGet(StoreDamageTests.key(number))
                        #expect(durable == StoreDamageTests.value(number))
                    } catch { outcomes.failedGets += 1 }
                }
                var seen = 0
                do throws(StateMachineError) {
                    try engine.scan(from: Bytes(), to: Bytes()) { key, value in
                        #expect(key == StoreDamageTests.key(seen) && value == StoreDamageTests.value(seen))
                        seen += 1
                        return true
                    }
                    #expect(seen == StoreDamageTests.count)
                } catch {
                    #expect(error.description.contains("Corruption") && error.description.contains(copy))
                    #expect(error.isDamage)
                    outcomes.failedScans += 1
                }
                // nor does it travel
                let folder = try DiskFolder(copy + "-export")
                do throws(StateMachineError) {
                    try engine.freeze().export(1, as: 2, into: folder).writeAll()
                    #expect(seen == StoreDamageTests.count)
                } catch { #expect(!FileManager.default.fileExists(atPath: folder.path + "/STORE")) }
                try FileManager.default.removeItem(atPath: folder.path)
            }
        }
        #expect(outcomes.failedScans > 10 && outcomes.failedGets > 10 && outcomes.opened > 20, "\(outcomes)")
    }

    @Test("A replica whose file is damaged does not read; the others do, and a snapshot takes its place")
    func oneReplica() throws {
        let directory = try TemporaryDirectory()
        let source = try RocksEngine(directory: directory.path + "/source")
        try EngineSnapshotTests.fill(source, 3, keys: 2000)
        let folders = try ([50, 51] as [UInt64]).map { number in
            let folder = try DiskFolder(directory.path + "/snapshot\(number)")
            try source.freeze().export(3, as: number, into: folder).writeAll()
            return folder
        }
        let path = directory.path + "/target"
        let engine = try RocksEngine(directory: path)
        try engine.ingest(folders[0], as: 50)
        let table = try #require(try StoreDamageTests.files(path) { $0.hasSuffix(".sst") }.first)
        try EngineSnapshotTests.fill(engine, 60)
        engine.close()

        func flipped(_ bytes: [UInt8]) -> [UInt8] {
            var bytes = bytes
            bytes[bytes.count / 3] ^= 1
            return bytes
        }
        try StoreDamageTests.withDamaged(path, table, flipped) { copy in
            let damaged = try RocksEngine(directory: copy)
            #expect(throws: StateMachineError.self) { try contents(damaged, of: 50) }
            #expect(try contents(damaged, of: 60).count == 300)
            try damaged.ingest(folders[1], as: 51)
            #expect(try contents(damaged, of: 51) == contents(source, of: 3))
            try damaged.drop(50)
            #expect(try damaged.numbers() == [51, 60])
            #expect(!FileManager.default.fileExists(atPath: copy + "/" + table))
            try damaged.flush()
            damaged.close()
            let again = try RocksEngine(directory: copy)
            #expect(try contents(again).count == 2300)
            again.close()
        }
        source.close()
    }

    @Test("Lists of files that are damaged or gone: nothing is opened, nothing is lost")
    func lists() throws {
        let directory = try TemporaryDirectory()
        let path = try StoreDamageTests.make(in: directory)
        let manifest = try #require(try StoreDamageTests.files(path) { $0.hasPrefix("MANIFEST") }.first)
        let table = try #require(try StoreDamageTests.files(path) { $0.hasSuffix(".sst") }.first)
        func flipped(_ bytes: [UInt8]) -> [UInt8] {
            var bytes = bytes
            bytes[bytes.count / 2] ^= 1
            return bytes
        }
        let damages: [(String, ([UInt8]) -> [UInt8]?)] = [
            (manifest, flipped), (manifest, { _ in [] }), (manifest, { _ in nil }), ("CURRENT", { _ in [] }),
            ("CURRENT", { _ in Array("MANIFEST-9999".utf8) }), ("CURRENT", { _ in nil }), (table, { _ in nil }),
            (table, { Array($0.dropLast()) }),
        ]
        for (file, change) in damages {
            try StoreDamageTests.withDamaged(path, file, change) { copy in
                let error = #expect(throws: StateMachineError.self, "\(file)") { try RocksEngine(directory: copy) }
                #expect(error?.description.contains(copy) == true)
                #expect(error?.description.contains("move the directory away") == true, "\(error?.description ?? "")")
                let kept = try StoreDamageTests.files(copy) { $0.hasSuffix(".sst") }
                #expect(kept.count == (file == table && change([0, 1]) == nil ? 0 : 1))
            }
        }
    }

    @Test("A flush on another thread stops nobody, and what was written before it is durable after it")
    func flushes() async throws {
        let directory = try TemporaryDirectory()
        let engine = try RocksEngine(directory: directory.path + "/store")
        let meta = KeyLayout(replicaNumber: 1).key(.meta)
        let writer = Task.detached {
            for number in 1...2000 {
                try engine.write([.put(meta, Bytes("\(number)")), .put(StoreDamageTests.key(number), Bytes("v"))])
            }
        }
        var last = 0
        for _ in 0..<20 {
            let before = try engine.get(meta).flatMap { Int($0.text) } ?? 0
            try engine.flush()
            let durable = try engine.durableGet(meta).flatMap { Int($0.text) } ?? 0
            #expect(durable >= before && durable >= last)
            last = durable
            // a batch is durable whole
            if durable > 0 { #expect(try engine.durableGet(StoreDamageTests.key(durable)) != nil) }
        }
        try await writer.value
        try engine.flush()
        #expect(try engine.durableGet(meta) == Bytes("2000"))
        engine.close()
    }
}
