import CMessages
public import RaftCore
public import RaftStorage
import WireMessages

/// Who a node is, read from its data directory.
public struct NodeIdentity: Equatable, Sendable {
    /// Random id of the data directory: a wiped or foreign disk has another one.
    public var incarnation: UInt64
    /// Counts the starts of a process on this directory.
    public var runNumber: UInt64
    /// What other nodes call this one.
    public var address: NodeAddress
    /// The cluster it belongs to; 0 before it joined one.
    public var clusterID: UInt64
    /// Its number in the cluster; 0 before it joined one.
    public var nodeID: UInt64
    /// The packed bootstrap record, if the node has seen one.
    public var bootstrap: Bytes?
    /// The longest promise that this run or an earlier one can have given.
    public var longestPromise: Interval
}

/// Why a data directory cannot be used.
public enum DirectoryError: Error, Sendable, CustomStringConvertible {
    /// The disk failed.
    case disk(DiskError)
    /// The log cannot be opened.
    case log(StorageError)
    /// The identity file is damaged.
    case damaged(path: String, reason: String)
    /// The directory was written by a newer version.
    case newerFormat(path: String, found: UInt32)
    /// The directory belongs to a node of another cluster.
    case otherCluster(path: String)
    /// The directory belongs to a node of another address.
    case otherAddress(path: String, recorded: NodeAddress, asked: NodeAddress)

    /// One sentence: what, and the way out, in words that hold for every program that opens a directory.
    public var description: String {
        switch self {
        case .disk(.locked(let path)): "\(path) is in use by another node; stop it or choose another directory"
        case .disk(let error): error.description
        case .log(let error): error.description
        case .damaged(let path, let reason):
            "\(path) is damaged (\(reason)); start the node with an empty directory and let it join anew"
        case .newerFormat(let path, let found):
            "\(path) has format \(found), newer than this version reads; upgrade"
        case .otherCluster(let path): "\(path) belongs to a node of another cluster; choose another directory"
        case .otherAddress(let path, let recorded, let asked):
            "\(path) belongs to the node \(recorded), not \(asked); "
                + "start it as \(recorded) or choose another directory"
        }
    }
}

/// The file `IDENTITY` of a data directory: `"FLOTILLA" length(4, big endian) crc32c(4, big endian) message`.
///
/// Opening counts the run and makes it durable before anything is said in its name.
public final class NodeDirectory {
    private static let magic = Array("FLOTILLA".utf8)
    private static let format: UInt32 = 1
    static let file = "IDENTITY"

    private let disk: any Disk
    /// What the file says.
    public private(set) var identity: NodeIdentity

    /// Reads the identity, or makes a new one under `freshIncarnation`; counts the run, which gives promises of
    /// `promise`.
    public init(
        disk: any Disk, address: NodeAddress, freshIncarnation: UInt64, promise: Interval
    ) throws(DirectoryError) {
        self.disk = disk
        if disk.exists(NodeDirectory.file) {
            identity = try NodeDirectory.read(disk)
            guard identity.address == address else {
                throw .otherAddress(path: disk.path, recorded: identity.address, asked: address)
            }
            identity.runNumber += 1
            identity.longestPromise = max(identity.longestPromise, promise)
        } else {
            identity = NodeIdentity(
                incarnation: freshIncarnation, runNumber: 1, address: address, clusterID: 0, nodeID: 0, bootstrap: nil,
                longestPromise: promise)
        }
        try write(identity)
    }

    /// Remembers durably which cluster the node belongs to, and the record it was formed by.
    public func join(clusterID: UInt64, nodeID: UInt64, bootstrap: Bytes?) throws(DirectoryError) {
        precondition(identity.clusterID == 0 || identity.clusterID == clusterID, "a node changes its cluster")
        var changed = identity
        changed.clusterID = clusterID
        if nodeID != 0 { changed.nodeID = nodeID }
        if let bootstrap { changed.bootstrap = bootstrap }
        // in memory only what is durable
        try write(changed)
        identity = changed
    }

    private func write(_ identity: NodeIdentity) throws(DirectoryError) {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__identity_file__init)
            message.pointee.format = NodeDirectory.format
            message.pointee.incarnation = identity.incarnation
            message.pointee.run_number = identity.runNumber
            message.pointee.advertise = arena.string(identity.address.description)
            message.pointee.has_cluster_id = 1
            message.pointee.cluster_id = identity.clusterID
            message.pointee.has_node_id = 1
            message.pointee.node_id = identity.nodeID
            message.pointee.has_promise_ms = 1
            // rounded up
            message.pointee.promise_ms = UInt64((identity.longestPromise.nanoseconds + 999_999) / 1_000_000)
            if let bootstrap = identity.bootstrap {
                message.pointee.record = arena.unpack(flotilla__bootstrap_record__init, bootstrap)
            }
            return arena.pack(message)
        }
        let crc = CRC32C.checksum(body)
        var header = NodeDirectory.magic
        for value in [UInt32(body.count), crc] {
            for shift in [24, 16, 8, 0] { header.append(UInt8(truncatingIfNeeded: value >> UInt32(shift))) }
        }
        let temporary = NodeDirectory.file + ".tmp"
        do throws(DiskError) {
            if disk.exists(temporary) { try disk.remove(temporary) }
            let file = try disk.create(temporary)
            defer { file.close() }
            let bytes = Bytes(header + body.array)
            try bytes.withUnsafeBytes { (buffer) throws(DiskError) in try file.write([buffer], at: 0) }
            try file.sync()
            try disk.rename(temporary, to: NodeDirectory.file)
            try disk.syncDirectory()
        } catch {
            throw .disk(error)
        }
    }

    private static func read(_ disk: any Disk) throws(DirectoryError) -> NodeIdentity {
        let path = disk.path + "/" + file
        var content: [UInt8] = []
        do throws(DiskError) {
            let opened = try disk.open(file)
            defer { opened.close() }
            let size = try opened.size()
            guard size < 64 << 20 else { throw DiskError.system(call: "read", path: path, errno: 27) }
            content = [UInt8](repeating: 0, count: size)
            var failure: DiskError?
            content.withUnsafeMutableBytes { buffer in
                do throws(DiskError) { _ = try opened.read(into: buffer, at: 0) } catch { failure = error }
            }
            if let failure { throw failure }
        } catch {
            throw .disk(error)
        }
        guard content.count >= 16, Array(content[0..<8]) == magic else {
            throw .damaged(path: path, reason: "it does not begin as one")
        }
        func number(at offset: Int) -> UInt32 {
            content[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
        }
        let length = Int(number(at: 8))
        guard content.count == 16 + length else { throw .damaged(path: path, reason: "its length is wrong") }
        let body = Bytes(Array(content[16...]))
        guard CRC32C.checksum(body) == number(at: 12) else {
            throw .damaged(path: path, reason: "its checksum is wrong")
        }
        let arena = Arena()
        return try arena.scope { (arena) throws(DirectoryError) -> NodeIdentity in
            guard let message = arena.unpack(flotilla__identity_file__init, body)?.pointee,
                let address = NodeAddress(String(field: message.advertise))
            else { throw .damaged(path: path, reason: "it does not parse") }
            guard message.format <= format else { throw .newerFormat(path: path, found: message.format) }
            return NodeIdentity(
                incarnation: message.incarnation, runNumber: message.run_number, address: address,
                clusterID: message.cluster_id, nodeID: message.node_id,
                bootstrap: message.record.map { arena.pack($0) },
                longestPromise: .milliseconds(Int(min(message.promise_ms, 1 << 32))))
        }
    }
}
