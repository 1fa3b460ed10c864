import CMessages
import RaftCore
import RaftStorage
import WireMessages

// The messages by which snapshots travel: braft's offer, and `flotilla.SnapshotService`.

extension RaftWire {
    // MARK: install_snapshot

    /// Where a snapshot is that this node offers, in the offer.
    static let snapshotScheme = "flotilla://"

    func snapshotRequest(
        _ request: SnapshotRequest, uri: String, group: String, from: PeerID, to: PeerID, arena: Arena
    ) -> UnsafeMutablePointer<Braft__InstallSnapshotRequest> {
        let message = arena.make(braft__install_snapshot_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.server_id = arena.string(from.description)
        message.pointee.peer_id = arena.string(to.description)
        message.pointee.term = request.term.rawValue
        message.pointee.meta = snapshotMeta(request.meta, arena: arena)
        message.pointee.uri = arena.string(uri)
        return message
    }

    func snapshotMeta(_ meta: SnapshotMeta, arena: Arena) -> UnsafeMutablePointer<Braft__SnapshotMeta> {
        let message = arena.make(braft__snapshot_meta__init)
        message.pointee.last_included_index = meta.last.index.rawValue
        message.pointee.last_included_term = meta.last.term.rawValue
        message.pointee.n_peers = meta.configuration.listed.count
        message.pointee.peers = arena.strings(meta.configuration.listed.map(\.description))
        message.pointee.n_old_peers = meta.configuration.oldPeers.count
        message.pointee.old_peers = arena.strings(meta.configuration.oldPeers.map(\.description))
        return message
    }

    /// The offer, and where the snapshot is.
    func decodeSnapshotRequest(_ body: Bytes) throws(WireError) -> (Addressing, SnapshotRequest, uri: String) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, SnapshotRequest, uri: String) in
            guard let message = arena.unpack(braft__install_snapshot_request__init, body)?.pointee,
                let meta = message.meta?.pointee, let peers = peers(meta.peers, meta.n_peers),
                let oldPeers = self.peers(meta.old_peers, meta.n_old_peers)
            else { throw WireError(code: 1003, text: "Fail to parse request") }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.server_id),
                to: String(field: message.peer_id))
            guard meta.last_included_index >= 0, meta.last_included_index < 1 << 62, meta.last_included_term >= 0,
                !peers.isEmpty
            else { throw WireError(code: 22, text: "a snapshot of no entry, or of no members") }
            let configuration = Configuration(peers: peers, oldPeers: oldPeers)
            let last = LogPosition(term: Term(meta.last_included_term), index: LogIndex(meta.last_included_index))
            return (
                addressing,
                SnapshotRequest(
                    term: Term(message.term), meta: SnapshotMeta(last: last, configuration: configuration)),
                String(field: message.uri)
            )
        }
    }

    /// The number of the snapshot that `uri` names; nil unless it is one of the node at `address`.
    static func snapshotID(_ uri: String, from address: NodeAddress) -> UInt64? {
        let beginning = "\(snapshotScheme)\(address)/"
        guard uri.hasPrefix(beginning) else { return nil }
        return UInt64(uri.dropFirst(beginning.count))
    }

    func decodeSnapshotReply(_ body: Bytes) -> SnapshotReply? {
        arena.scope { arena in
            arena.unpack(braft__install_snapshot_response__init, body).map {
                SnapshotReply(term: Term($0.pointee.term), success: $0.pointee.success != 0)
            }
        }
    }

    // MARK: open

    /// The snapshot that is asked for, and the number it shall be written for.
    func decodeSnapshotOpen(_ body: Bytes) -> (id: UInt64, store: UInt64)? {
        arena.scope { arena in
            arena.unpack(flotilla__snapshot_open_request__init, body).map { ($0.pointee.id, $0.pointee.store) }
        }
    }

    func snapshotFiles(
        _ files: [StoredFolder.File], arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__SnapshotOpenReply> {
        let reply = arena.make(flotilla__snapshot_open_reply__init)
        reply.pointee.n_files = files.count
        reply.pointee.files = arena.array(
            files.map { file -> UnsafeMutablePointer<Flotilla__SnapshotFile>? in
                let entry = arena.make(flotilla__snapshot_file__init)
                entry.pointee.name = arena.string(file.name)
                entry.pointee.size = UInt64(file.byteCount)
                entry.pointee.crc32c = file.checksum
                return entry
            })
        return reply
    }

    private static let filesMax = 100_000

    /// The files on offer; nil if the answer does not parse, or names what is no file, or one twice.
    func decodeSnapshotFiles(_ body: Bytes) -> [StoredFolder.File]? {
        arena.scope { arena in
            guard let reply = arena.unpack(flotilla__snapshot_open_reply__init, body)?.pointee,
                reply.n_files <= RaftWire.filesMax
            else { return nil }
            var files: [StoredFolder.File] = []
            // by their bytes: names that are equal as text are two files
            var names: Set<[UInt8]> = []
            for position in 0..<reply.n_files {
                guard let file = reply.files[position]?.pointee, file.size < 1 << 60 else { return nil }
                let name = String(field: file.name)
                guard !name.isEmpty, !name.utf8.contains(UInt8(ascii: "/")), name != ".", name != "..",
                    names.insert(Array(name.utf8)).inserted
                else { return nil }
                files.append(StoredFolder.File(name: name, byteCount: Int(file.size), checksum: file.crc32c))
            }
            return files
        }
    }

    // MARK: read, close

    /// The bytes that are asked for.
    func decodeSnapshotRead(_ body: Bytes) -> (id: UInt64, file: String, offset: UInt64, count: UInt32)? {
        arena.scope { arena in
            arena.unpack(flotilla__snapshot_read_request__init, body).map {
                ($0.pointee.id, String(field: $0.pointee.file), $0.pointee.offset, $0.pointee.count)
            }
        }
    }

    /// The checksum of the bytes that come with the answer.
    func decodeSnapshotPiece(_ body: Bytes) -> UInt32? {
        arena.scope { arena in
            arena.unpack(flotilla__snapshot_read_reply__init, body).map(\.pointee.crc32c)
        }
    }

    /// The snapshot that is needed no more.
    func decodeSnapshotClose(_ body: Bytes) -> UInt64? {
        arena.scope { arena in arena.unpack(flotilla__snapshot_close_request__init, body).map(\.pointee.id) }
    }
}
