import Glibc
import RaftCore

/// A disk in memory that forgets what was not synced, and fails when told to. The same seed and the same calls give
/// the same faults.
///
/// A directory in it is a name that ends with a slash; files in it carry it in front. Unlike those of a file system, names
/// that are equal as text are one name.
///
/// Any thread may use it. After ``crash(_:)`` files that were open fail every call: their process is dead.
public final class MemoryDisk: Disk, @unchecked Sendable {
    /// The medium behind a file, whatever its name.
    fileprivate final class Medium {
        var durable: [UInt8] = []
        var contents: [UInt8] = []
        var unsynced: [Change] = []
    }

    fileprivate enum Change {
        case write(offset: Int, bytes: [UInt8])
        case resize(Int)
    }

    private enum DirectoryChange {
        case link(String, Medium)
        case unlink(String)
        case rename(String, to: String)

        /// The directory whose sync makes it durable: the name up to the last slash that is not its end.
        var directory: Substring {
            let name =
                switch self {
                case .link(let name, _), .unlink(let name), .rename(let name, _): name
                }
            let end = name.dropLast().lastIndex(of: "/").map { name.index(after: $0) } ?? name.startIndex
            return name[..<end]
        }
    }

    /// Always `memory`.
    public let path = "memory"

    fileprivate let lock = Lock()
    private var random: SeededRandom
    private var names: [String: Medium] = [:]
    private var durableNames: [String: Medium] = [:]
    private var unsyncedNames: [DirectoryChange] = []
    fileprivate private(set) var crashes = 0
    private var full = false
    private var copying = false
    private var free = 1 << 40
    /// Nil: they never fail.
    private var syncsUntilFailure: Int?
    private var syncs = 0
    /// Nil: it does not. Writes and syncs until it does.
    private var changesUntilPowerFailure: Int?
    private var onPowerFailure: () -> Void = {}
    fileprivate private(set) var hasNoPower = false
    private var readsToFail = 0
    private var readsUntilFailure = 0
    fileprivate var readByteCount = 0
    private var writesToFail = 0
    private var writeError = MemoryDisk.deviceError
    /// Changes of files that are not synced.
    private var unsyncedCount = 0

    /// An empty disk whose accidents are drawn from `seed`.
    public init(seed: UInt64) {
        random = SeededRandom(seed: seed)
    }

    /// While set, no file can grow and no byte is free.
    public var isFull: Bool {
        get { lock.withLock { full } }
        set { lock.withLock { full = newValue } }
    }

    /// While set, a full disk has no room either for bytes that replace others, as a file system that copies on write.
    public var copiesOnWrite: Bool {
        get { lock.withLock { copying } }
        set { lock.withLock { copying = newValue } }
    }

    /// What the disk says is free while it is not full; nothing that is written changes it.
    public var claimedFreeBytes: Int {
        get { lock.withLock { free } }
        set { lock.withLock { free = newValue } }
    }

    /// While set, every sync fails with EIO, and what it should have made durable stays unsynced.
    public var failsSyncs: Bool {
        get { lock.withLock { syncsUntilFailure == 0 } }
        set { lock.withLock { syncsUntilFailure = newValue ? 0 : nil } }
    }

    /// Lets `count` more syncs of files and directories succeed; from then on they fail.
    public func failSyncs(after count: Int) {
        lock.withLock { syncsUntilFailure = count }
    }

    /// Bytes of files read so far.
    public var bytesRead: Int { lock.withLock { readByteCount } }

    /// How many syncs of files and directories have succeeded.
    public var syncCount: Int { lock.withLock { syncs } }

    /// Lets `count` more writes and syncs of files happen; then the power fails: every call fails until ``crash(_:)``,
    /// which must follow. `whenItDoes` is told once; it may not use the disk.
    public func failPower(after count: Int, whenItDoes: @escaping () -> Void) {
        lock.withLock {
            changesUntilPowerFailure = count
            onPowerFailure = whenItDoes
        }
    }

    /// Lets `good` more reads succeed, and the `count` after them fail with EIO.
    public func failReads(_ count: Int, after good: Int = 0) {
        lock.withLock { (readsToFail, readsUntilFailure) = (count, good) }
    }

    /// Lets the next `count` writes of files fail, each after an arbitrary part of its bytes.
    public func failWrites(_ count: Int, with error: DiskError = deviceError) {
        lock.withLock { (writesToFail, writeError) = (count, error) }
    }

    /// What a write says to a device that is broken.
    public static let deviceError = DiskError.system(call: "pwritev", path: "memory", errno: EIO)

    /// Whether everything written to files is durable.
    public var isSynced: Bool { lock.withLock { unsyncedCount == 0 } }
}

// MARK: - Accidents

extension MemoryDisk {
    /// What is lost at the end of a process.
    public enum Loss: Sendable {
        /// Nothing: the machine goes on, and with it what it has not synced.
        case nothing
        /// Of what was not synced an arbitrary part. Of the changes of a file each is lost, kept, cut off, or kept in
        /// some sectors only; of the directory's a prefix is kept.
        case some
        /// All that was not synced.
        case everything
    }

    /// The process that uses the disk ends without notice.
    public func crash(_ loss: Loss = .some) {
        lock.withLock {
            crashes += 1
            changesUntilPowerFailure = nil
            onPowerFailure = {}
            hasNoPower = false
            (readsToFail, writesToFail) = (0, 0)
            guard loss != .nothing else { return }
            let kept = loss == .some ? number(below: unsyncedNames.count + 1) : 0
            for change in unsyncedNames.prefix(kept) { MemoryDisk.apply(change, to: &durableNames) }
            unsyncedNames = []
            // what is in a directory goes with it
            for name in durableNames.keys where !isReachable(name) { durableNames[name] = nil }
            names = durableNames
            for (_, medium) in names.sorted(by: { $0.key < $1.key }) where !medium.unsynced.isEmpty {
                if loss == .some { for change in medium.unsynced { tear(change, into: &medium.durable) } }
                medium.unsynced = []
                medium.contents = medium.durable
            }
            unsyncedCount = 0
        }
    }

    /// What the disk would hold if everything that is not synced were lost now.
    public func durableCopy() -> MemoryDisk {
        let copy = MemoryDisk(seed: 0)
        lock.withLock {
            for (name, medium) in durableNames { copy.setContents(name, medium.durable) }
        }
        return copy
    }

    /// Turns bit `bit` of the byte at `offset` of a file around, durably: rot.
    public func flipBit(_ name: String, offset: Int, bit: Int = 0) {
        rot(name) { $0[offset] ^= 1 << UInt8(bit) }
    }

    /// Everything in the file from `offset` on is zero: rot.
    public func zero(_ name: String, from offset: Int) {
        rot(name) { bytes in
            for position in offset..<bytes.count { bytes[position] = 0 }
        }
    }

    /// The file ends at `count`: rot.
    public func shorten(_ name: String, to count: Int) {
        rot(name) { $0.removeLast($0.count - count) }
    }

    /// The file is gone: rot.
    public func lose(_ name: String) {
        lock.withLock {
            names[name] = nil
            durableNames[name] = nil
        }
    }

    /// What a file holds, synced or not; nil if there is none.
    public func contents(_ name: String) -> [UInt8]? {
        lock.withLock { names[name]?.contents }
    }

    /// Puts a file there, durably.
    public func setContents(_ name: String, _ bytes: [UInt8]) {
        lock.withLock {
            let medium = Medium()
            medium.durable = bytes
            medium.contents = bytes
            names[name] = medium
            durableNames[name] = medium
        }
    }

    /// A disk with the same files, all of it durable; accidents are drawn from `seed`.
    public func copy(seed: UInt64 = 0) -> MemoryDisk {
        let copy = MemoryDisk(seed: seed)
        lock.withLock {
            for (name, medium) in names { copy.setContents(name, medium.contents) }
        }
        return copy
    }

    private func rot(_ name: String, _ change: (inout [UInt8]) -> Void) {
        lock.withLock {
            guard let medium = names[name] else { preconditionFailure("no file \(name)") }
            precondition(medium.unsynced.isEmpty, "\(name) is not synced")
            change(&medium.durable)
            medium.contents = medium.durable
        }
    }

    private func tear(_ change: Change, into bytes: inout [UInt8]) {
        switch change {
        case .resize:
            if number(below: 2) == 0 { MemoryDisk.apply(change, to: &bytes) }
        case .write(let offset, let written):
            switch number(below: 4) {
            case 0: break
            case 1: MemoryDisk.apply(change, to: &bytes)
            case 2:
                let kept = number(below: written.count + 1)
                MemoryDisk.apply(.write(offset: offset, bytes: Array(written[..<kept])), to: &bytes)
            default:
                let sector = 512
                var start = 0
                while start < written.count {
                    let end = min(((offset + start) / sector + 1) * sector - offset, written.count)
                    if number(below: 2) == 0 {
                        let part = Change.write(offset: offset + start, bytes: Array(written[start..<end]))
                        MemoryDisk.apply(part, to: &bytes)
                    }
                    start = end
                }
            }
        }
    }

    /// Whether the directory that holds `name` is durable itself, and those around it.
    private func isReachable(_ name: String) -> Bool {
        guard let slash = name.dropLast().lastIndex(of: "/") else { return true }
        let directory = String(name[...slash])
        return durableNames[directory] != nil && isReachable(directory)
    }

    private func number(below bound: Int) -> Int { Int(random.number(in: 0..<Int64(bound))) }

    fileprivate static func apply(_ change: Change, to bytes: inout [UInt8]) {
        switch change {
        case .resize(let count):
            if count < bytes.count { bytes.removeLast(bytes.count - count) }
            // an array is copied as a whole, a repetition byte by byte
            bytes.append(contentsOf: [UInt8](repeating: 0, count: count - bytes.count))
        case .write(let offset, let written):
            guard !written.isEmpty else { return }
            guard offset < bytes.count else {
                bytes.append(contentsOf: [UInt8](repeating: 0, count: offset - bytes.count))
                return bytes.append(contentsOf: written)
            }
            let missing = offset + written.count - bytes.count
            if missing > 0 { bytes.append(contentsOf: [UInt8](repeating: 0, count: missing)) }
            bytes.replaceSubrange(offset..<offset + written.count, with: written)
        }
    }

    private static func apply(_ change: DirectoryChange, to names: inout [String: Medium]) {
        switch change {
        case .link(let name, let medium): names[name] = medium
        case .unlink(let name): names[name] = nil
        case .rename(let from, let to): names[to] = names.removeValue(forKey: from)
        }
    }
}

// MARK: - Disk

extension MemoryDisk {
    /// Opens an existing file for reading and writing.
    public func open(_ name: String) throws(DiskError) -> any DiskFile {
        try lock.withLock { () throws(DiskError) -> any DiskFile in
            MemoryFile(medium: try medium(name, call: "open"), name: name, disk: self, crashes: crashes)
        }
    }

    /// Creates a file, which must not exist.
    public func create(_ name: String) throws(DiskError) -> any DiskFile {
        try lock.withLock { () throws(DiskError) -> any DiskFile in
            guard names[name] == nil else { throw .system(call: "open", path: name, errno: EEXIST) }
            let medium = Medium()
            change(.link(name, medium))
            return MemoryFile(medium: medium, name: name, disk: self, crashes: crashes)
        }
    }

    /// Whether the file exists.
    public func exists(_ name: String) -> Bool { lock.withLock { names[name] != nil } }

    /// Names of all files, ascending.
    public func list() throws(DiskError) -> [String] { files(in: "") }

    /// Renames atomically, replacing the target.
    public func rename(_ from: String, to: String) throws(DiskError) {
        try lock.withLock { () throws(DiskError) in
            _ = try medium(from, call: "rename")
            change(.rename(from, to: to))
        }
    }

    /// Removes a file.
    public func remove(_ name: String) throws(DiskError) {
        try lock.withLock { () throws(DiskError) in
            _ = try medium(name, call: "unlink")
            change(.unlink(name))
        }
    }

    /// Makes creations, renames and removals durable.
    public func syncDirectory() throws(DiskError) { try syncDirectory("") }

    /// Nil: there is no file system.
    public var directory: String? { nil }

    /// A directory in this one, created if missing. Its files count as this disk's, under `name/file`.
    public func folder(_ name: String) throws(DiskError) -> any Disk { makeFolder(name) }

    /// Names of all directories in this one, ascending.
    public func folders() throws(DiskError) -> [String] { folders(in: "") }

    /// Removes a directory with everything in it.
    public func removeFolder(_ name: String) throws(DiskError) { removeAll(in: name + "/") }

    fileprivate func makeFolder(_ name: String) -> MemoryFolder {
        lock.withLock { if names[name + "/"] == nil { change(.link(name + "/", Medium())) } }
        return MemoryFolder(name + "/", of: self)
    }

    /// Names of the files right under `prefix`, without it.
    fileprivate func files(in prefix: String) -> [String] {
        lock.withLock {
            names.keys.filter { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
                .filter { !$0.isEmpty && !$0.contains("/") }.sorted()
        }
    }

    fileprivate func folders(in prefix: String) -> [String] {
        lock.withLock {
            names.keys.filter { $0.hasPrefix(prefix) && $0.hasSuffix("/") && $0 != prefix }
                .map { String($0.dropFirst(prefix.count).dropLast()) }.filter { !$0.contains("/") }.sorted()
        }
    }

    fileprivate func removeAll(in prefix: String) {
        lock.withLock {
            // the directory itself last, as whoever empties it would
            for name in names.keys.filter({ $0.hasPrefix(prefix) }).sorted().reversed() { change(.unlink(name)) }
        }
    }

    /// Makes creations, renames and removals right under `prefix` durable.
    fileprivate func syncDirectory(_ prefix: String) throws(DiskError) {
        try lock.withLock { () throws(DiskError) in
            try countSync(call: "fsync", path + "/" + prefix)
            for change in unsyncedNames where change.directory == prefix {
                MemoryDisk.apply(change, to: &durableNames)
            }
            unsyncedNames.removeAll { $0.directory == prefix }
        }
    }

    /// None while the disk is full, otherwise ``claimedFreeBytes``.
    public func freeBytes() throws(DiskError) -> Int { lock.withLock { full ? 0 : free } }

    private func medium(_ name: String, call: String) throws(DiskError) -> Medium {
        guard let medium = names[name] else { throw .system(call: call, path: name, errno: ENOENT) }
        return medium
    }

    private func change(_ change: DirectoryChange) {
        MemoryDisk.apply(change, to: &names)
        unsyncedNames.append(change)
    }

    /// A change of a file; one that makes it grow needs space.
    fileprivate func change(_ medium: Medium, _ change: Change, upTo end: Int) throws(DiskError) {
        guard !full || (end <= medium.contents.count && !copying) else { throw .full(path: path) }
        try spendPower(call: "pwritev")
        MemoryDisk.apply(change, to: &medium.contents)
        medium.unsynced.append(change)
        unsyncedCount += 1
    }

    private func spendPower(call: String) throws(DiskError) {
        guard let left = changesUntilPowerFailure else { return }
        changesUntilPowerFailure = left - 1
        guard left == 0 else { return }
        hasNoPower = true
        changesUntilPowerFailure = nil
        onPowerFailure()
        throw .system(call: call, path: path, errno: EIO)
    }

    /// How a write of `bytes` is to fail, if it is; then they are what it writes before it does.
    fileprivate func failureOfWrite(of bytes: inout [UInt8]) -> DiskError? {
        guard writesToFail > 0 else { return nil }
        writesToFail -= 1
        bytes.removeLast(number(below: bytes.count + 1))
        return writeError
    }

    fileprivate func countRead(_ name: String) throws(DiskError) {
        guard readsToFail > 0 else { return }
        if readsUntilFailure > 0 {
            readsUntilFailure -= 1
            return
        }
        readsToFail -= 1
        throw .system(call: "pread", path: name, errno: EIO)
    }

    fileprivate func sync(_ medium: Medium, name: String) throws(DiskError) {
        try spendPower(call: "fdatasync")
        try countSync(call: "fdatasync", name)
        for change in medium.unsynced { MemoryDisk.apply(change, to: &medium.durable) }
        unsyncedCount -= medium.unsynced.count
        medium.unsynced = []
    }

    private func countSync(call: String, _ name: String) throws(DiskError) {
        if let left = syncsUntilFailure {
            guard left > 0 else { throw .system(call: call, path: name, errno: EIO) }
            syncsUntilFailure = left - 1
        }
        syncs += 1
    }
}

/// A file of a ``MemoryDisk``.
private final class MemoryFile: DiskFile, @unchecked Sendable {
    private let medium: MemoryDisk.Medium
    private let name: String
    private let disk: MemoryDisk
    private let crashes: Int

    init(medium: MemoryDisk.Medium, name: String, disk: MemoryDisk, crashes: Int) {
        self.medium = medium
        self.name = name
        self.disk = disk
        self.crashes = crashes
    }

    func size() throws(DiskError) -> Int {
        try alive("fstat") { () throws(DiskError) in medium.contents.count }
    }

    func write(_ buffers: [UnsafeRawBufferPointer], at offset: Int) throws(DiskError) {
        try alive("pwritev") { () throws(DiskError) in
            var bytes: [UInt8] = []
            for buffer in buffers { bytes.append(contentsOf: buffer) }
            let failure = disk.failureOfWrite(of: &bytes)
            try disk.change(medium, .write(offset: offset, bytes: bytes), upTo: offset + bytes.count)
            if let failure { throw failure }
        }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(DiskError) -> Int {
        try alive("pread") { () throws(DiskError) in
            try disk.countRead(name)
            let count = max(0, min(buffer.count, medium.contents.count - offset))
            disk.readByteCount += count
            if count > 0 { buffer.copyBytes(from: medium.contents[offset..<offset + count]) }
            return count
        }
    }

    func sync() throws(DiskError) {
        try alive("fdatasync") { () throws(DiskError) in try disk.sync(medium, name: name) }
    }

    func preallocate(_ count: Int) throws(DiskError) {
        try alive("posix_fallocate") { () throws(DiskError) in
            guard count > medium.contents.count else { return }
            try disk.change(medium, .resize(count), upTo: count)
        }
    }

    func truncate(to count: Int) throws(DiskError) {
        try alive("ftruncate") { () throws(DiskError) in
            try disk.change(medium, .resize(count), upTo: count)
        }
    }

    func close() {}

    private func alive<R>(_ call: String, _ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        try disk.lock.withLock { () throws(DiskError) -> R in
            guard crashes == disk.crashes, !disk.hasNoPower else { throw .system(call: call, path: name, errno: EIO) }
            return try body()
        }
    }
}

/// A directory of a ``MemoryDisk``: its names with a prefix.
private final class MemoryFolder: Disk, @unchecked Sendable {
    /// Ends with a slash.
    private let prefix: String
    private let disk: MemoryDisk

    init(_ prefix: String, of disk: MemoryDisk) {
        self.prefix = prefix
        self.disk = disk
    }

    var path: String { disk.path + "/" + prefix.dropLast() }
    func open(_ name: String) throws(DiskError) -> any DiskFile { try disk.open(prefix + name) }
    func create(_ name: String) throws(DiskError) -> any DiskFile { try disk.create(prefix + name) }
    func exists(_ name: String) -> Bool { disk.exists(prefix + name) }
    func list() throws(DiskError) -> [String] { disk.files(in: prefix) }
    func rename(_ from: String, to: String) throws(DiskError) { try disk.rename(prefix + from, to: prefix + to) }
    func remove(_ name: String) throws(DiskError) { try disk.remove(prefix + name) }
    func syncDirectory() throws(DiskError) { try disk.syncDirectory(prefix) }
    func freeBytes() throws(DiskError) -> Int { try disk.freeBytes() }
    var directory: String? { nil }
    func folder(_ name: String) throws(DiskError) -> any Disk { disk.makeFolder(prefix + name) }
    func folders() throws(DiskError) -> [String] { disk.folders(in: prefix) }
    func removeFolder(_ name: String) throws(DiskError) { disk.removeAll(in: prefix + name + "/") }
}
