import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: the format") struct GoldenBytesTests {
    @Test func checksumIsCRC32C() {
        #expect(Array("123456789".utf8).withUnsafeBytes { Checksum.of($0) } == 0xe306_9283)
        var pieces = Checksum()
        for piece in ["123", "", "456789"] { Array(piece.utf8).withUnsafeBytes { pieces.update($0) } }
        #expect(pieces.value == 0xe306_9283)
    }

    @Test func bytesOnDiskDoNotChange() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write([
            LogWrite(
                group: 1, hardState: state(2, vote: peer(1)), truncateFrom: LogIndex(5),
                entries: [noOp(5, term: 2), data(6, term: 2, "payload")]),
            LogWrite(group: 3, entries: [membership(1, Configuration(peers: [peer(1)]))], note: Bytes("note")),
        ])
        log.sealIfIdle()
        #expect(hex(try #require(disk.contents("MANIFEST"))) == GoldenBytes.manifest)
        let segment = try #require(disk.contents(segmentName(1)))
        #expect(hex(Array(segment[..<contentEnd(segment)])) == GoldenBytes.segment)
    }

    /// Sixteen bytes per line.
    private func hex(_ bytes: [UInt8]) -> [String] {
        stride(from: 0, to: bytes.count, by: 16).map { start in
            bytes[start..<min(start + 16, bytes.count)].map { byte in
                (byte < 16 ? "0" : "") + String(byte, radix: 16)
            }.joined()
        }
    }
}

private enum GoldenBytes {
    static let manifest: [String] = []
    static let segment: [String] = []
}
