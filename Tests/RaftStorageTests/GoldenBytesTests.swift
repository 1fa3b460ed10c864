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

/// Whoever changes a byte here changes the format: it needs a new version, and the old one must still be read.
private enum GoldenBytes {
    static let manifest = [
        "464c4f544d414e49010000000a2ee392",
        "07000000000000000100000000000000",
        "01000000000000000004000000000000",
        "01000000000000009800000000000000",
    ]
    static let segment = [
        "464c4f545345474d01000000a854ae52",
        "07000000000000000100000000000000",
        "00040000000000000100000000000000",
        "00000000000000000000000000000000",
        "464c4f544254434800000000fedfb27e",
        "07000000000000000100000000000000",
        "01000000000000004000000000000000",
        "00000000000000000000000000000000",
        "00000000000000000000000000000000",
        "0000000000000000464c4f5442544348",
        "1669f1ccb18deff30700000000000000",
        "02000000000000000100000000000000",
        "98000000000000000100000000000000",
        "98000000000000001301000000000000",
        "259cf031060000000200000000000000",
        "01000000000000001e00000002000000",
        "00000000060000000000000003000000",
        "00000000600000000100000000000000",
        "01000000000000008d4edc9c12000000",
        "01000000000000000200000000000000",
        "0000000000000000010000003132372e",
        "302e302e313a383030313a303a30ef1a",
        "55630000000001000000000000000000",
        "00000000000005000000000000000200",
        "0000e7e797c900000000010000000000",
        "00000200000000000000050000000000",
        "0000040000006c49fe17070000000100",
        "00000000000002000000000000000600",
        "000000000000030000007061796c6f61",
        "646b9e7da21e00000003000000000000",
        "00010000000000000001000000000000",
        "00050000000100000012000000313237",
        "2e302e302e313a383030313a303a3000",
        "000000e0e87c41040000000300000000",
        "00000000000000000000000000000000",
        "000000060000006e6f74650000000000",
        "464c4f54425443481669f1ccbdc1d07d",
        "07000000000000000300000000000000",
        "01000000000000004002000000000000",
        "01000000000000004002000000000000",
        "00000000000000000000000000000000",
        "00000000020000000100000000000000",
        "1e000000020000000000000006000000",
        "00000000030000000000000060000000",
        "010000000000000001",
    ]
}
