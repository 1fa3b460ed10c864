import Foundation
import RaftCore
import RocksEngine

@testable import ShardKV

/// A folder in memory, whose files can be damaged.
final class MemoryFolder: SnapshotFolder, @unchecked Sendable {
    var files: [String: [UInt8]] = [:]
    let directory: String? = nil

    func fileNames() throws(StateMachineError) -> [String] { files.keys.sorted() }

    func append(_ bytes: Bytes, to name: String) throws(StateMachineError) {
        files[name, default: []] += bytes.array
    }

    func contents(of name: String) throws(StateMachineError) -> Bytes {
        guard let file = files[name] else { throw StateMachineError("there is no file \(name)") }
        return Bytes(file)
    }

    func read(_ name: String, at offset: Int, count: Int) throws(StateMachineError) -> Bytes {
        let all = try contents(of: name)
        return all.slice(from: min(offset, all.count), count: max(0, min(count, all.count - offset)))
    }
}

/// A folder on disk.
final class DiskFolder: SnapshotFolder {
    let path: String
    var directory: String? { path }

    init(_ path: String) throws {
        self.path = path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    func fileNames() throws(StateMachineError) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }

    func append(_ bytes: Bytes, to name: String) throws(StateMachineError) {
        let old = FileManager.default.contents(atPath: path + "/" + name) ?? Data()
        guard FileManager.default.createFile(atPath: path + "/" + name, contents: old + Data(bytes.array)) else {
            throw StateMachineError("cannot write \(name)")
        }
    }

    func contents(of name: String) throws(StateMachineError) -> Bytes {
        guard let data = FileManager.default.contents(atPath: path + "/" + name) else {
            throw StateMachineError("there is no file \(name)")
        }
        return Bytes([UInt8](data))
    }

    func read(_ name: String, at offset: Int, count: Int) throws(StateMachineError) -> Bytes {
        let all = try contents(of: name)
        return all.slice(from: min(offset, all.count), count: max(0, min(count, all.count - offset)))
    }
}

/// Engines of one kind, and folders that they can write to.
final class EngineWorld {
    let kind: EngineTests.Kind
    private let directory: TemporaryDirectory
    private var made = 0
    private var opened: [(engine: RocksEngine, path: String)] = []
    private var collecting: [(engine: CollectingEngine, memory: MemoryEngine)] = []

    init(_ kind: EngineTests.Kind) throws {
        self.kind = kind
        directory = try TemporaryDirectory()
    }

    deinit { for (engine, _) in opened { engine.close() } }

    func engine(exportedFileBytes: Int = 64 << 20) throws -> any KeyValueEngine {
        if kind == .collected { return collected(MemoryEngine()) }
        guard kind == .rocks else { return MemoryEngine() }
        made += 1
        var settings = RocksEngine.Settings()
        settings.exportedFileBytes = exportedFileBytes
        let path = "\(directory.path)/store\(made)"
        let engine = try RocksEngine(directory: path, settings: settings)
        opened.append((engine, path))
        return engine
    }

    private func collected(_ memory: MemoryEngine) -> CollectingEngine {
        let engine = CollectingEngine(over: memory, limits: .few)
        collecting.append((engine, memory))
        return engine
    }

    func folder() throws -> any SnapshotFolder {
        guard kind == .rocks else { return MemoryFolder() }
        made += 1
        return try DiskFolder("\(directory.path)/snapshot\(made)")
    }

    /// A copy of `folder` whose file `name` was changed; nil takes it away.
    func copy(
        _ folder: any SnapshotFolder, changing name: String, _ change: (inout [UInt8]) -> [UInt8]?
    ) throws -> any SnapshotFolder {
        let copy = try self.folder()
        for file in try folder.fileNames() {
            var bytes = try folder.contents(of: file).array
            if file == name {
                guard let changed = change(&bytes) else { continue }
                bytes = changed
            }
            try copy.append(Bytes(bytes), to: file)
        }
        return copy
    }

    /// What a power failure would leave of `engine`.
    func crashed(_ engine: any KeyValueEngine) throws -> any KeyValueEngine {
        if let memory = engine as? MemoryEngine {
            memory.crash()
            return memory
        }
        if let old = collecting.first(where: { $0.engine === engine }) {
            old.memory.crash()
            return collected(old.memory)
        }
        guard let old = opened.first(where: { $0.engine === engine }) else { preconditionFailure("not of this world") }
        made += 1
        let path = "\(directory.path)/store\(made)"
        try FileManager.default.copyItem(atPath: old.path, toPath: path)
        let crashed = try RocksEngine(directory: path)
        opened.append((crashed, path))
        return crashed
    }
}

/// What `engine` holds under `number`, without the number.
func contents(_ engine: any KeyValueEngine, of number: UInt64) throws -> [[Bytes]] {
    var pairs: [[Bytes]] = []
    try engine.scan(from: ReplicaKeys.start(of: number), to: ReplicaKeys.end(of: number)) { key, value in
        pairs.append([key.suffix(from: ReplicaKeys.prefixBytes), value])
        return true
    }
    return pairs
}
