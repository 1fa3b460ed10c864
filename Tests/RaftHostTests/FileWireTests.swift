import CMessages
import Glibc
import RaftCore
import RaftStorage
import Testing
import WireMessages

@testable import RaftHost

@Suite("Files of snapshots, as brafts say them")
struct FileWireTests {
    private let wire = RaftWire()

    private func bytes(_ hex: String) -> [UInt8] { hex.split(separator: " ").map { UInt8($0, radix: 16)! } }

    @Test("get_file and its answer are these bytes") func vectors() {
        let request = GetFileRequest(reader: 42, name: "data", count: 131072, offset: 0, readPartly: true)
        let packed = wire.arena.scope { arena in arena.pack(wire.getFileRequest(request, arena: arena)) }
        #expect(packed.array == bytes("08 2a 12 04 64 61 74 61 18 80 80 08 20 00 28 01"))
        #expect(wire.decodeGetFileRequest(packed) == request)
        let reply = GetFileReply(isAtEnd: true, readSize: 5)
        let answer = wire.arena.scope { arena in arena.pack(wire.getFileReply(reply, arena: arena)) }
        #expect(answer.array == bytes("08 01 10 05"))
        #expect(wire.decodeGetFileReply(answer) == reply)
        #expect(
            RaftWire.segmentHeader(offset: 0, count: 5).array + Array("hello".utf8)
                == bytes("00 00 00 00 00 00 00 00 00 00 00 05 68 65 6c 6c 6f"))
    }

    @Test("A list of files is read and written as braft does") func list() throws {
        let sent = Bytes(
            bytes("0a 17 08 07 10 01 1a 11") + Array("10.0.0.1:8100:0:0".utf8)
                + bytes("12 08 0a 04 64 61 74 61 12 00"))
        let (files, last) = try wire.decodeBraftList(sent)
        #expect(files == [BraftFile(name: "data", storedName: "data")])
        #expect(last == LogPosition(term: Term(1), index: LogIndex(7)))
        let peers = [PeerID("10.0.0.1:8100:0:0")].compactMap { $0 }
        #expect(wire.braftList(files, SnapshotMeta(last: last, configuration: Configuration(peers: peers))) == sent)
    }

    @Test("What the application said of a file travels on") func details() throws {
        let file = BraftFile(
            name: "a/b", storedName: "a%2Fb", userMeta: Bytes([0, 255]), checksum: "crc")
        let meta = SnapshotMeta(last: LogPosition(term: Term(3), index: LogIndex(4)), configuration: .empty)
        #expect(try wire.decodeBraftList(wire.braftList([file], meta)).files == [file])
    }

    @Test(
        "A list with a name that is no file of a folder is refused",
        arguments: [
            ["../x"], ["/etc/passwd"], [""], ["a//b"], ["a/../b"], ["."], ["a/."], ["a", "a"], ["__raft_snapshot_meta"],
            ["a/"], ["\u{1}"], [String(repeating: "a", count: 256)], ["a" + String(repeating: "/b", count: 64)],
        ])
    func badNames(_ names: [String]) {
        let meta = SnapshotMeta(last: LogPosition(term: Term(3), index: LogIndex(4)), configuration: .empty)
        let list = wire.braftList(names.map { BraftFile(name: $0, storedName: "") }, meta)
        #expect { try wire.decodeBraftList(list) } throws: { ($0 as? RaftWire.WireError)?.code == 22 }
    }

    @Test("Names that are the same text in other bytes are two files") func equalNames() throws {
        let names = ["\u{e9}", "e\u{301}"]
        #expect(names[0] == names[1])
        let meta = SnapshotMeta(last: LogPosition(term: Term(3), index: LogIndex(4)), configuration: .empty)
        let list = wire.braftList(names.map { BraftFile(name: $0, storedName: "") }, meta)
        let files = try wire.decodeBraftList(list).files
        #expect(files.map { Array($0.name.utf8) } == names.map { Array($0.utf8) })
        let stored = files.enumerated().map { position, file in
            StoredFolder.File(name: file.storedName, byteCount: position, checksum: 0)
        }
        let exhibited = ExhibitedFiles(files, stored: stored)
        #expect(names.map { exhibited[$0]?.byteCount } == [0, 1])
    }

    @Test("So they are on the way between our nodes: listed, read and checked") func equalNamesOfOurs() throws {
        let names = ["\u{e9}", "e\u{301}"]
        let files = names.map { name in
            let bytes = Bytes("of \(Array(name.utf8))")
            return StoredFolder.File(name: name, byteCount: bytes.count, checksum: CRC32C.checksum(bytes))
        }
        let body = wire.arena.scope { arena in arena.pack(wire.snapshotFiles(files, arena: arena)) }
        #expect(wire.decodeSnapshotFiles(body) == files)
        let twice = wire.arena.scope { arena in arena.pack(wire.snapshotFiles([files[1], files[1]], arena: arena)) }
        #expect(wire.decodeSnapshotFiles(twice) == nil)

        let template = "/tmp/flotilla-names-XXXXXX"
        let path = template.withCString { text in
            let path = strdup(text)!
            defer { free(path) }
            return String(cString: mkdtemp(path))
        }
        let disk = try PosixDisk(directory: path)
        defer {
            try? disk.removeFolder("in")
            rmdir(path)
        }
        for order in [[0, 1], [1, 0]] {
            let folder = try SnapshotStore(disk: disk).makeFolder("in")
            for position in order {
                try folder.write(Bytes("of \(Array(names[position].utf8))"), to: names[position], at: 0)
            }
            let listed = order.reversed().map { files[$0] }
            for check in [
                SnapshotCheck(of: folder, against: listed), SnapshotCheck(of: folder, named: listed.map(\.name)),
            ] {
                var steps = 0
                while try !check.advance(), steps < 100 { steps += 1 }
                #expect(steps < 100)
            }
            let other = SnapshotCheck(of: folder, named: [names[0], names[0]])
            #expect(throws: StateMachineError.self) { while try !other.advance() {} }
        }
    }

    @Test(
        "No name of a file leads elsewhere, whatever is joined to a slash",
        arguments: ["/", "a/b", "../\u{301}x", "a/\u{301}"])
    func slashes(_ name: String) {
        let files = [StoredFolder.File(name: name, byteCount: 1, checksum: 0)]
        let body = wire.arena.scope { arena in arena.pack(wire.snapshotFiles(files, arena: arena)) }
        #expect(wire.decodeSnapshotFiles(body) == nil)
        #expect(BraftSnapshot.storedName(of: "../\u{301}x") == nil)
    }

    @Test("A reader of one file does not read the other that has the same name as text") func readers() throws {
        let cluster = HostCluster(seed: 1)
        try cluster.nodes[0].start()
        try #require(cluster.run(limit: 5000) { cluster.nodes[0].host.replicas.count == 1 })
        let meta = SnapshotMeta(last: LogPosition(term: Term(3), index: LogIndex(4)), configuration: .empty)
        let replica = cluster.nodes[0].host.replicas[0]
        let snapshot = OutgoingSnapshot(
            id: 1, replica: replica, peer: replica.id, frozen: EmptyState(meta: meta), exhibit: nil,
            now: cluster.nodes[0].lane.clock.now)
        let reader = BraftReader(id: 1, snapshot: snapshot)
        #expect(!reader.reads("\u{e9}"))
        reader.file = "\u{e9}"
        #expect(reader.reads("\u{e9}") && !reader.reads("e\u{301}"))
    }

    @Test("Names are kept, whatever is in them", arguments: ["data", "a/b/c", ".x", "100%", "%2F", "a.sst", "ü/é"])
    func names(_ name: String) throws {
        let stored = try #require(BraftSnapshot.storedName(of: name))
        #expect(!stored.contains("/") && !stored.hasPrefix("."))
        #expect(BraftSnapshot.name(ofStored: stored) == name)
    }

    @Test("A file that no name is stored under has none", arguments: ["%", "%2", "%41", "%2f", "a%00"])
    func strayNames(_ stored: String) { #expect(BraftSnapshot.name(ofStored: stored) == nil) }

    @Test(
        "The place of a snapshot",
        arguments: [
            ("remote://10.0.0.1:8100/-42", -42), ("remote://10.0.0.1:8100/0", 0),
            ("remote://10.0.0.1:8100/-9223372036854775808", Int64.min),
        ])
    func places(_ uri: String, _ reader: Int64) {
        #expect(
            RaftWire.braftSource(uri)
                == BraftSource(address: NodeAddress(ip: 10 << 24 | 1, port: 8100), reader: reader))
    }

    @Test(
        "No place of a snapshot",
        arguments: [
            "", "remote://", "remote://10.0.0.1:8100", "remote://10.0.0.1:8100/", "remote://10.0.0.1:8100//1",
            "remote://10.0.0.1:8100/1x", "remote://10.0.0.1:8100/+1", "remote://host:8100/1", "remote://10.0.0.1/1",
            "remote://10.0.0.1:0/1", "remote://0.0.0.0:1/1", "remote://10.0.0.1:8100/9223372036854775808",
            "local:///tmp/x", "flotilla://10.0.0.1:8100/1", "Remote://10.0.0.1:8100/1",
        ])
    func noPlaces(_ uri: String) { #expect(RaftWire.braftSource(uri) == nil) }

    @Test("Segments lie where they may, or are none at all") func segments() {
        let two = BraftPeer.segment(4, [1, 2]) + BraftPeer.segment(8, [3])
        #expect(
            RaftWire.segments(Bytes(two), within: 4..<9)
                == [FileSegment(offset: 4, bytes: Bytes([1, 2])), FileSegment(offset: 8, bytes: Bytes([3]))])
        #expect(RaftWire.segments(Bytes(), within: 4..<9) == [])
        for cut in 1..<two.count where cut != 14 {
            #expect(RaftWire.segments(Bytes(Array(two.prefix(cut))), within: 4..<9) == nil, "cut at \(cut)")
        }
        let twice = BraftPeer.segment(8, [3]) + BraftPeer.segment(4, [1, 2])
        #expect(RaftWire.segments(Bytes(twice), within: 4..<9) == nil, "they ascend")
        let overlapping = BraftPeer.segment(4, [1, 2]) + BraftPeer.segment(5, [3])
        #expect(RaftWire.segments(Bytes(overlapping), within: 4..<9) == nil)
        let empty = (0..<2000).flatMap { _ in BraftPeer.segment(4, []) }
        #expect(RaftWire.segments(Bytes(empty), within: 4..<9) == nil, "nobody sends so many")
        #expect(RaftWire.segments(Bytes(two), within: 4..<8) == nil)
        #expect(RaftWire.segments(Bytes(two), within: 5..<9) == nil)
        for offset in [-1, Int.max, Int.min] {
            #expect(RaftWire.segments(Bytes(BraftPeer.segment(offset, [1])), within: 0..<Int.max) == nil)
        }
        let endless: [UInt8] = Array(repeating: 0, count: 8) + [255, 255, 255, 255, 1]
        #expect(RaftWire.segments(Bytes(endless), within: 0..<Int.max) == nil)
    }
}

/// A state of which nothing is asked.
private final class EmptyState: FrozenState {
    let meta: SnapshotMeta

    init(meta: SnapshotMeta) { self.meta = meta }

    func writer(to folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) -> any SnapshotWriter {
        throw StateMachineError("there is nothing to write")
    }
}
