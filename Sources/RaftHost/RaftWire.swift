import CMessages
import RaftCore
import RaftStorage
import WireMessages

/// braft's messages to the core's and back. What does not parse is nil or a thrown ``WireError``; nothing traps.
struct RaftWire {
    let arena = Arena()

    // MARK: requests, outgoing

    func voteRequest(
        _ request: VoteRequest, group: String, from: PeerID, to: PeerID, arena: Arena
    ) -> UnsafeMutablePointer<Braft__RequestVoteRequest> {
        let message = arena.make(braft__request_vote_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.server_id = arena.string(from.description)
        message.pointee.peer_id = arena.string(to.description)
        message.pointee.term = request.term.rawValue
        message.pointee.last_log_term = request.last.term.rawValue
        message.pointee.last_log_index = request.last.index.rawValue
        if let handOver = request.handOver {
            let leader = arena.make(braft__term_leader__init)
            leader.pointee.peer_id = arena.string(handOver.leader.description)
            leader.pointee.term = handOver.term.rawValue
            message.pointee.disrupted_leader = leader
        }
        return message
    }

    /// The entries' payloads travel in the attachment; a witness gets none, nor hears how long they are.
    func appendRequest(
        group: String, from: PeerID, to: PeerID, term: Term, previous: LogPosition, entries: ArraySlice<LogEntry>,
        withPayloads: Bool, commit: LogIndex, arena: Arena
    ) -> UnsafeMutablePointer<Braft__AppendEntriesRequest> {
        let message = arena.make(braft__append_entries_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.server_id = arena.string(from.description)
        message.pointee.peer_id = arena.string(to.description)
        message.pointee.term = term.rawValue
        message.pointee.prev_log_term = previous.term.rawValue
        message.pointee.prev_log_index = previous.index.rawValue
        message.pointee.committed_index = commit.rawValue
        guard !entries.isEmpty else { return message }
        let metas = arena.allocate(MemoryLayout<Braft__EntryMeta>.stride * entries.count)
            .assumingMemoryBound(to: Braft__EntryMeta.self)
        let pointers = arena.allocate(MemoryLayout<UnsafeMutablePointer<Braft__EntryMeta>?>.stride * entries.count)
            .assumingMemoryBound(to: UnsafeMutablePointer<Braft__EntryMeta>?.self)
        for (position, entry) in entries.enumerated() {
            let meta = metas + position
            braft__entry_meta__init(meta)
            meta.pointee.term = entry.position.term.rawValue
            meta.pointee.type = Braft__EntryType(rawValue: UInt32(entry.kind.rawValue))
            if withPayloads {
                meta.pointee.has_data_len = 1
                meta.pointee.data_len = Int64(entry.payload.count)
            }
            if let configuration = entry.configuration {
                meta.pointee.n_peers = configuration.listed.count
                meta.pointee.peers = arena.strings(configuration.listed.map(\.description))
                if configuration.isJoint {
                    meta.pointee.n_old_peers = configuration.oldPeers.count
                    meta.pointee.old_peers = arena.strings(configuration.oldPeers.map(\.description))
                }
            }
            pointers[position] = meta
        }
        message.pointee.n_entries = entries.count
        message.pointee.entries = pointers
        return message
    }

    func timeoutNowRequest(
        _ request: TimeoutNowRequest, group: String, from: PeerID, to: PeerID, arena: Arena
    ) -> UnsafeMutablePointer<Braft__TimeoutNowRequest> {
        let message = arena.make(braft__timeout_now_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.server_id = arena.string(from.description)
        message.pointee.peer_id = arena.string(to.description)
        message.pointee.term = request.term.rawValue
        message.pointee.has_old_leader_stepped_down = 1
        message.pointee.old_leader_stepped_down = request.oldLeaderSteppedDown ? 1 : 0
        return message
    }

    // MARK: requests, incoming

    /// Which replica a request is for, and who sent it.
    struct Addressing {
        var group: String
        var from: String
        var to: String
    }

    /// A request that breaks braft's rules, and the RPC error it is answered with.
    struct WireError: Error {
        var code: Int32
        var text: String
    }

    func decodeVoteRequest(_ body: Bytes, isPreVote: Bool) throws(WireError) -> (Addressing, VoteRequest) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, VoteRequest) in
            guard let message = arena.unpack(braft__request_vote_request__init, body)?.pointee else {
                throw WireError(code: 1003, text: "Fail to parse request")
            }
            var handOver: TermLeader?
            if let leader = message.disrupted_leader?.pointee, let peer = PeerID(String(field: leader.peer_id)) {
                handOver = TermLeader(leader: peer, term: Term(leader.term))
            }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.server_id),
                to: String(field: message.peer_id))
            return (
                addressing,
                VoteRequest(
                    isPreVote: isPreVote, term: Term(message.term),
                    last: LogPosition(term: Term(message.last_log_term), index: LogIndex(message.last_log_index)),
                    handOver: handOver)
            )
        }
    }

    /// The request as the core sees it, and its entries with their payloads cut from the attachment.
    func decodeAppendRequest(
        _ body: Bytes, attachment: Bytes
    ) throws(WireError) -> (Addressing, AppendRequest, [LogEntry]) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, AppendRequest, [LogEntry]) in
            guard let message = arena.unpack(braft__append_entries_request__init, body)?.pointee else {
                throw WireError(code: 1003, text: "Fail to parse request")
            }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.server_id),
                to: String(field: message.peer_id))
            guard message.prev_log_index >= 0, message.prev_log_index < .max - Int64(message.n_entries) else {
                throw WireError(code: 22, text: "prev_log_index out of range")
            }
            var headers: [EntryHeader] = []
            var configurations: [PlacedConfiguration] = []
            var entries: [LogEntry] = []
            headers.reserveCapacity(message.n_entries)
            entries.reserveCapacity(message.n_entries)
            var offset = 0
            for position in 0..<message.n_entries {
                guard let meta = message.entries[position]?.pointee,
                    let number = UInt8(exactly: meta.type.rawValue), let kind = EntryKind(rawValue: number)
                else { throw WireError(code: 1003, text: "entry \(position) has an unknown type") }
                let index = LogIndex(message.prev_log_index + 1 + Int64(position))
                let length = meta.has_data_len != 0 ? meta.data_len : 0
                guard length >= 0, length <= Int64(attachment.count - offset) else {
                    throw WireError(code: 1003, text: "the attachment is shorter than its entries say")
                }
                var configuration: Configuration?
                if kind == .configuration {
                    guard let peers = peers(meta.peers, meta.n_peers), !peers.isEmpty,
                        let oldPeers = self.peers(meta.old_peers, meta.n_old_peers)
                    else { throw WireError(code: 1003, text: "entry \(position) has no valid configuration") }
                    let parsed = Configuration(peers: peers, oldPeers: oldPeers)
                    configuration = parsed
                    configurations.append(PlacedConfiguration(index: index, configuration: parsed))
                } else if meta.n_peers > 0 {
                    throw WireError(code: 1003, text: "entry \(position) has peers and is no configuration")
                }
                headers.append(EntryHeader(term: Term(meta.term), kind: kind))
                entries.append(
                    LogEntry(
                        position: LogPosition(term: Term(meta.term), index: index), kind: kind,
                        payload: attachment.slice(from: offset, count: Int(length)), configuration: configuration))
                offset += Int(length)
            }
            let request = AppendRequest(
                term: Term(message.term),
                previous: LogPosition(term: Term(message.prev_log_term), index: LogIndex(message.prev_log_index)),
                entries: headers, configurations: configurations, commit: LogIndex(message.committed_index))
            return (addressing, request, entries)
        }
    }

    func peers(
        _ texts: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ count: Int
    ) -> [PeerID]? {
        var peers: [PeerID] = []
        for position in 0..<count {
            guard let peer = PeerID(String(field: texts?[position])) else { return nil }
            peers.append(peer)
        }
        return peers
    }

    func decodeTimeoutNowRequest(_ body: Bytes) throws(WireError) -> (Addressing, TimeoutNowRequest) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, TimeoutNowRequest) in
            guard let message = arena.unpack(braft__timeout_now_request__init, body)?.pointee else {
                throw WireError(code: 1003, text: "Fail to parse request")
            }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.server_id),
                to: String(field: message.peer_id))
            return (
                addressing,
                TimeoutNowRequest(
                    term: Term(message.term),
                    oldLeaderSteppedDown: message.has_old_leader_stepped_down != 0
                        && message.old_leader_stepped_down != 0)
            )
        }
    }

    // MARK: replies

    /// The body that answers a request with `message`.
    func packReply(_ message: Message) -> Bytes {
        arena.scope { arena in
            switch message {
            case .voteReply(let reply):
                let response = arena.make(braft__request_vote_response__init)
                response.pointee.term = reply.term.rawValue
                response.pointee.granted = reply.granted ? 1 : 0
                if let details = reply.details {
                    response.pointee.has_disrupted = 1
                    response.pointee.disrupted = details.isDisrupted ? 1 : 0
                    response.pointee.has_previous_term = 1
                    response.pointee.previous_term = details.previousTerm.rawValue
                    response.pointee.has_rejected_by_lease = 1
                    response.pointee.rejected_by_lease = details.isRejectedByLease ? 1 : 0
                }
                return arena.pack(response)
            case .appendReply(let reply):
                let response = arena.make(braft__append_entries_response__init)
                response.pointee.term = reply.term.rawValue
                response.pointee.success = reply.success ? 1 : 0
                if let last = reply.lastIndex {
                    response.pointee.has_last_log_index = 1
                    response.pointee.last_log_index = last.rawValue
                }
                if let term = reply.lastTerm {
                    response.pointee.has_last_log_term = 1
                    response.pointee.last_log_term = term.rawValue
                }
                if let support = reply.support {
                    response.pointee.has_support_epoch = 1
                    response.pointee.support_epoch = support.epoch
                    response.pointee.has_supporter_run = 1
                    response.pointee.supporter_run = support.supporterRun
                    response.pointee.has_asker_run = 1
                    response.pointee.asker_run = support.askerRun
                }
                return arena.pack(response)
            case .timeoutNowReply(let reply):
                let response = arena.make(braft__timeout_now_response__init)
                response.pointee.term = reply.term.rawValue
                response.pointee.success = reply.success ? 1 : 0
                return arena.pack(response)
            case .releaseReply(let reply):
                let response = arena.make(flotilla__release_reply__init)
                response.pointee.term = reply.term.rawValue
                return arena.pack(response)
            case .readIndexReply(let reply):
                let response = arena.make(flotilla__read_index_reply__init)
                if let index = reply.index {
                    response.pointee.has_index = 1
                    response.pointee.index = index.rawValue
                }
                return arena.pack(response)
            case .snapshotReply(let reply):
                let response = arena.make(braft__install_snapshot_response__init)
                response.pointee.term = reply.term.rawValue
                response.pointee.success = reply.success ? 1 : 0
                return arena.pack(response)
            case .voteRequest, .appendRequest, .timeoutNowRequest, .releaseRequest, .readIndexRequest,
                .snapshotRequest:
                preconditionFailure("it answers no request of these services")
            }
        }
    }

    func decodeVoteReply(_ body: Bytes, to request: VoteRequest) -> VoteReply? {
        arena.scope { arena in
            arena.unpack(braft__request_vote_response__init, body).map { message in
                let message = message.pointee
                let details = VoteDetails(
                    isDisrupted: message.has_disrupted != 0 && message.disrupted != 0,
                    previousTerm: Term(message.has_previous_term != 0 ? message.previous_term : 0),
                    isRejectedByLease: message.has_rejected_by_lease != 0 && message.rejected_by_lease != 0)
                return VoteReply(
                    isPreVote: request.isPreVote, requestTerm: request.term, term: Term(message.term),
                    granted: message.granted != 0,
                    details: details.isDisrupted || details.isRejectedByLease ? details : nil)
            }
        }
    }

    func decodeAppendReply(_ body: Bytes, to ticket: AppendTicket) -> AppendReply? {
        arena.scope { arena in
            arena.unpack(braft__append_entries_response__init, body).map { message in
                let message = message.pointee
                let hasSupport =
                    message.has_support_epoch != 0 && message.has_supporter_run != 0 && message.has_asker_run != 0
                let support = SupportStamp(
                    epoch: message.support_epoch, supporterRun: message.supporter_run, askerRun: message.asker_run)
                return AppendReply(
                    ticket: ticket, term: Term(message.term), success: message.success != 0,
                    lastIndex: message.has_last_log_index != 0 ? LogIndex(message.last_log_index) : nil,
                    lastTerm: message.has_last_log_term != 0 ? Term(message.last_log_term) : nil,
                    support: hasSupport ? support : nil)
            }
        }
    }

    func decodeTimeoutNowReply(_ body: Bytes) -> TimeoutNowReply? {
        arena.scope { arena in
            arena.unpack(braft__timeout_now_response__init, body).map { message in
                TimeoutNowReply(term: Term(message.pointee.term), success: message.pointee.success != 0)
            }
        }
    }

    // MARK: flotilla.GroupService

    func releaseRequest(
        _ request: ReleaseRequest, group: String, from: PeerID, to: PeerID, arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__ReleaseRequest> {
        let message = arena.make(flotilla__release_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.from = arena.string(from.description)
        message.pointee.to = arena.string(to.description)
        message.pointee.term = request.term.rawValue
        return message
    }

    func decodeReleaseRequest(_ body: Bytes) throws(WireError) -> (Addressing, ReleaseRequest) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, ReleaseRequest) in
            guard let message = arena.unpack(flotilla__release_request__init, body)?.pointee else {
                throw WireError(code: 1003, text: "Fail to parse request")
            }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.from),
                to: String(field: message.to))
            return (addressing, ReleaseRequest(term: Term(message.term)))
        }
    }

    func decodeReleaseReply(_ body: Bytes) -> ReleaseReply? {
        arena.scope { arena in
            arena.unpack(flotilla__release_reply__init, body).map { ReleaseReply(term: Term($0.pointee.term)) }
        }
    }

    func readIndexRequest(
        _ request: ReadIndexRequest, group: String, from: PeerID, to: PeerID, arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__ReadIndexRequest> {
        let message = arena.make(flotilla__read_index_request__init)
        message.pointee.group_id = arena.string(group)
        message.pointee.from = arena.string(from.description)
        message.pointee.to = arena.string(to.description)
        message.pointee.term = request.term.rawValue
        return message
    }

    /// The question, numbered by `sequence` on this node.
    func decodeReadIndexRequest(
        _ body: Bytes, sequence: UInt64
    ) throws(WireError) -> (Addressing, ReadIndexRequest) {
        try arena.scope { (arena) throws(WireError) -> (Addressing, ReadIndexRequest) in
            guard let message = arena.unpack(flotilla__read_index_request__init, body)?.pointee else {
                throw WireError(code: 1003, text: "Fail to parse request")
            }
            let addressing = Addressing(
                group: String(field: message.group_id), from: String(field: message.from),
                to: String(field: message.to))
            return (addressing, ReadIndexRequest(term: Term(message.term), sequence: sequence))
        }
    }

    func decodeReadIndexReply(_ body: Bytes, to request: ReadIndexRequest) -> ReadIndexReply? {
        arena.scope { arena in
            arena.unpack(flotilla__read_index_reply__init, body).map {
                ReadIndexReply(
                    sequence: request.sequence, index: $0.pointee.has_index != 0 ? LogIndex($0.pointee.index) : nil)
            }
        }
    }
}
