public import RaftCore

/// The checksum of everything this project stores: CRC32C (Castagnoli).
public enum CRC32C {
    /// The checksum of `bytes`.
    public static func checksum(_ bytes: Bytes) -> UInt32 { bytes.withUnsafeBytes { Checksum.of($0) } }
}
