import RaftStorage

/// A disk with as much room as the test says.
final class RoomyDisk: Disk, @unchecked Sendable {
    let path = "roomy"
    var free = 1 << 40
    private let files = MemoryDisk(seed: 1)

    func open(_ name: String) throws(DiskError) -> any DiskFile { try files.open(name) }
    func create(_ name: String) throws(DiskError) -> any DiskFile { try files.create(name) }
    func exists(_ name: String) -> Bool { files.exists(name) }
    func list() throws(DiskError) -> [String] { try files.list() }
    func rename(_ from: String, to: String) throws(DiskError) { try files.rename(from, to: to) }
    func remove(_ name: String) throws(DiskError) { try files.remove(name) }
    func syncDirectory() throws(DiskError) { try files.syncDirectory() }
    func freeBytes() -> Int { free }
    var directory: String? { nil }
    func folder(_ name: String) throws(DiskError) -> any Disk { try files.folder(name) }
    func folders() throws(DiskError) -> [String] { try files.folders() }
    func removeFolder(_ name: String) throws(DiskError) { try files.removeFolder(name) }
}
