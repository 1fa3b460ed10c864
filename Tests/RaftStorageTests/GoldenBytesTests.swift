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
        let log = try Opened(disk, segmentBytes: 4096).log
        let members = Configuration(peers: [peer(1)])
        let (gone, compacted) = (LogPosition(term: Term(1), index: LogIndex(4)), noOp(5, term: 2).position)
        try log.write([
            LogWrite(
                group: 1, hardState: state(2, vote: peer(1)), debt: LogPosition(term: Term(3), index: LogIndex(9)),
                start: .reset(LogBase(position: gone, configuration: members)), truncateFrom: LogIndex(5),
                entries: [noOp(5, term: 2), data(6, term: 2, "payload")]),
            LogWrite(group: 3, entries: [membership(1, members)], note: Bytes("note")),
        ])
        try log.write([
            LogWrite(group: 1, debt: .zero, start: .compact(LogBase(position: compacted, configuration: members)))
        ])
        var loss = LogWrite(group: 3)
        loss.loss = Damage(file: "file", offset: 40, reason: "why")
        try log.write([LogWrite(dropping: 1), loss])
        log.sealIfIdle()
        let manifest = try #require(disk.contents("MANIFEST"))
        #expect(hex(manifest) == GoldenBytes.manifest)
        let segment = try #require(disk.contents(segmentName(1)))
        #expect(hex(Array(segment[..<contentEnd(segment)])) == GoldenBytes.segment)
    }

    @Test func bytesOfACheckpointDoNotChange() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 4096).log
        let members = Configuration(peers: [peer(1)])
        try log.write([
            LogWrite(
                group: 1, hardState: state(2, vote: peer(1)), debt: LogPosition(term: Term(3), index: LogIndex(9)),
                start: .reset(LogBase(position: noOp(4, term: 1).position, configuration: members)),
                entries: [noOp(5, term: 2), membership(6, term: 3, members)], note: Bytes("note"))
        ])
        var loss = LogWrite(group: 1)
        loss.loss = Damage(file: "file", offset: 40, reason: "why")
        try log.write([loss])
        try log.checkpoint()
        let checkpoint = try #require(disk.contents("CHECKPOINT"))
        #expect(hex(checkpoint) == GoldenBytes.checkpoint)
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
        "464c4f544d414e490200000043b0a5ed",
        "07000000000000000100000000000000",
        "01000000000000000010000000000000",
        "01000000000000009800000000000000",
    ]
    static let checkpoint = [
        "464c4f54434b505402000000c7ba1c47",
        "07000000000000000100000000000000",
        "93546191410100000100000001000000",
        "0000000003000000000000001f000000",
        "010000000c0100003600000002000000",
        "00000000120000003132372e302e302e",
        "313a383030313a303a30010000003202",
        "000028000000040000006e6f74650100",
        "00004201000024000000030000000000",
        "00000900000000000000010000008a01",
        "00004200000001000000000000000400",
        "0000000000001e000000010000001200",
        "00003132372e302e302e313a38303031",
        "3a303a300000000001000000f0020000",
        "3b000000170000002800000000000000",
        "0400000066696c650300000077687902",
        "00000002000000000000000500000000",
        "00000003000000000000000600000000",
        "0000000100000006000000000000001e",
        "00000001000000120000003132372e30",
        "2e302e313a383030313a303a30000000",
        "000200000001000000cc010000240000",
        "0001000000f0010000420000008ab228",
        "8c0000000000000000",
    ]
    static let segment = [
        "464c4f545345474d02000000658373cf",
        "07000000000000000100000000000000",
        "00100000000000000100000000000000",
        "00000000000000000000000000000000",
        "464c4f544254434800000000fedfb27e",
        "07000000000000000100000000000000",
        "01000000000000004000000000000000",
        "00000000000000000000000000000000",
        "00000000000000000000000000000000",
        "0000000000000000464c4f5442544348",
        "f260e91d5afb68d60700000000000000",
        "02000000000000000100000000000000",
        "98000000000000000100000000000000",
        "98000000000000009d01000000000000",
        "08806245090000000200000000000000",
        "01000000000000001e03000002000000",
        "00000000060000000000000003000000",
        "00000000600000000100000000000000",
        "01000000000000008d4edc9c12000000",
        "01000000000000000200000000000000",
        "0000000000000000010000003132372e",
        "302e302e313a383030313a303a30466f",
        "52e50000000001000000000000000300",
        "00000000000009000000000000000900",
        "00001f9ee39700000000010000000000",
        "00000000000000000000000000000000",
        "0000020000004e459d861e0000000100",
        "00000000000001000000000000000400",
        "00000000000008000000010000001200",
        "00003132372e302e302e313a38303031",
        "3a303a30000000006239676500000000",
        "01000000000000000100000000000000",
        "040000000000000002000000e7e797c9",
        "00000000010000000000000002000000",
        "00000000050000000000000004000000",
        "6c49fe17070000000100000000000000",
        "02000000000000000600000000000000",
        "030000007061796c6f61646b9e7da21e",
        "00000003000000000000000100000000",
        "00000001000000000000000500000001",
        "000000120000003132372e302e302e31",
        "3a383030313a303a3000000000e0e87c",
        "41040000000300000000000000000000",
        "00000000000000000000000000060000",
        "006e6f7465000000464c4f5442544348",
        "2229b5fd378ba4970700000000000000",
        "03000000000000000100000000000000",
        "c8020000000000000100000000000000",
        "c8020000000000008a00000000000000",
        "fd252098030000000100000002000000",
        "01000000000000008404000002000000",
        "00000000060000000000000001000000",
        "000000001e0300000200000000000000",
        "06000000000000000300000000000000",
        "60000000010000000000000001000000",
        "00000000f9fda7610000000001000000",
        "00000000000000000000000000000000",
        "000000000a000000c589405e00000000",
        "01000000000000000200000000000000",
        "060000000000000002000000a9af10d6",
        "1e000000010000000000000002000000",
        "00000000050000000000000007000000",
        "01000000120000003132372e302e302e",
        "313a383030313a303a30000000000000",
        "464c4f54425443483d44a47ab4f7b808",
        "07000000000000000400000000000000",
        "01000000000000000004000000000000",
        "01000000000000000004000000000000",
        "8300000000000000d55a1eec03000000",
        "02000000010000000100000000000000",
        "00100000000000000000000000000000",
        "00000000030000000000000004080000",
        "01000000000000000100000000000000",
        "01000000000000008404000002000000",
        "0000000006000000000000008befe2a5",
        "00000000010000000000000000000000",
        "0000000000000000000000000c000000",
        "7036f196170000000300000000000000",
        "00000000000000000000000000000000",
        "0b000000280000000000000004000000",
        "66696c65030000007768790bdd16d000",
        "00000003000000000000000100000000",
        "00000001000000000000000200000000",
        "464c4f5442544348ef3656325574bf0b",
        "07000000000000000500000000000000",
        "01000000000000003005000000000000",
        "01000000000000003005000000000000",
        "00000000000000000000000000000000",
        "00000000020000000100000000000000",
        "00100000000000000000000000000000",
        "00000000030000000000000004080000",
        "010000000000000001",
    ]
}
