public struct LogUsage: Sendable {
    public struct Pinning: Sendable { public var group: LogGroup; public var liveBytes: Int }
    public var totalBytes: Int
    public var pinning: [Pinning]
}
extension WriteAheadLog {
    public func usage() -> LogUsage { LogUsage(totalBytes: totalBytes, pinning: []) }
    public func carryForward(maxBytes: Int) throws(StorageError) {}
    public func reclaim() throws(StorageError) {}
    public func deleteRetired() throws(StorageError) {}
    public func checkpoint() throws(StorageError) {}
}
