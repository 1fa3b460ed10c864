/// Where a node listens: an IPv4 address and a port. PeerIds carry nothing else (braft's limit, kept).
public struct NodeAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// IPv4 address in host byte order.
    public let ip: UInt32
    /// TCP port.
    public let port: UInt16

    /// The address `ip:port`.
    @inlinable public init(ip: UInt32, port: UInt16) {
        self.ip = ip
        self.port = port
    }

    /// Parses `a.b.c.d:port`; nil if it is anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let port = UInt16(parts[1]), let ip = NodeAddress.parseIPv4(parts[0]) else {
            return nil
        }
        self.init(ip: ip, port: port)
    }

    static func parseIPv4(_ text: some StringProtocol) -> UInt32? {
        let octets = text.split(separator: ".", omittingEmptySubsequences: false)
        guard octets.count == 4 else { return nil }
        var ip: UInt32 = 0
        for octet in octets {
            guard !octet.isEmpty, octet.count <= 3, let value = UInt8(octet) else { return nil }
            ip = ip << 8 | UInt32(value)
        }
        return ip
    }

    /// Order by address, then port.
    public static func < (left: NodeAddress, right: NodeAddress) -> Bool {
        left.ordinal < right.ordinal
    }

    private var ordinal: UInt64 { UInt64(ip) << 16 | UInt64(port) }

    /// `a.b.c.d`.
    public var host: String { "\(ip >> 24).\(ip >> 16 & 255).\(ip >> 8 & 255).\(ip & 255)" }
    /// `a.b.c.d:port`.
    public var description: String { "\(host):\(port)" }
}

/// A replica's name within its group: braft's PeerId `ip:port:idx[:role]`. The role takes no part in equality or
/// order.
public struct PeerID: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// What a member holds.
    public enum Role: Int32, Sendable {
        /// Log and state.
        case replica = 0
        /// A voter without payloads (braft's witness): it never campaigns.
        case witness = 1
        /// Log and state, but no vote. braft knows no such member.
        case learner = 2
    }

    /// The node.
    public let address: NodeAddress
    /// Tells several replicas of one group behind one address apart; never reused on a node.
    public let idx: Int32
    /// What the member holds.
    public let role: Role

    /// The replica `idx` of a group on the node at `address`.
    @inlinable public init(address: NodeAddress, idx: Int32 = 0, role: Role = .replica) {
        self.address = address
        self.idx = idx
        self.role = role
    }

    /// Parses braft's text form, two to four parts separated by one or more colons; nil if it is refused there.
    ///
    /// Every message of a group names two members: the form that we write ourselves is not taken apart into strings.
    public init?(_ text: String) {
        var text = text
        if let peer = text.withUTF8({ PlainDigits($0).peer }) {
            self = peer
        } else {
            self.init(text[...])
        }
    }

    /// The same of any text.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":")
        guard parts.count >= 2, text.utf8.count <= 63, let ip = NodeAddress.parseIPv4(parts[0]),
            let port = UInt16(parts[1])
        else { return nil }
        var idx: Int32 = 0
        var role = Role.replica
        if parts.count > 2 {
            guard let number = Int32(parts[2]) else { return nil }
            idx = number
        }
        if parts.count > 3 {
            guard let number = Int32(parts[3]), let parsed = Role(rawValue: number) else { return nil }
            role = parsed
        }
        self.init(address: NodeAddress(ip: ip, port: port), idx: idx, role: role)
    }

    /// Address and idx decide, as in braft.
    public static func == (left: PeerID, right: PeerID) -> Bool {
        left.address == right.address && left.idx == right.idx
    }
    /// By address, then idx.
    public static func < (left: PeerID, right: PeerID) -> Bool {
        left.address != right.address ? left.address < right.address : left.idx < right.idx
    }
    /// Feeds what equality looks at.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(address)
        hasher.combine(idx)
    }
    /// braft's text form, always four parts.
    public var description: String {
        guard idx >= 0 else { return "\(address):\(idx):\(role.rawValue)" }
        // the longest has 34 bytes
        return String(unsafeUninitializedCapacity: 40) { buffer in
            var end = 0
            func put(_ number: UInt32, before separator: UInt8?) {
                var divisor: UInt32 = 1
                while number / divisor > 9 { divisor *= 10 }
                while divisor > 0 {
                    buffer[end] = UInt8(ascii: "0") + UInt8(number / divisor % 10)
                    end += 1
                    divisor /= 10
                }
                guard let separator else { return }
                buffer[end] = separator
                end += 1
            }
            let (dot, colon) = (UInt8(ascii: "."), UInt8(ascii: ":"))
            put(address.ip >> 24, before: dot)
            put(address.ip >> 16 & 255, before: dot)
            put(address.ip >> 8 & 255, before: dot)
            put(address.ip & 255, before: colon)
            put(UInt32(address.port), before: colon)
            put(UInt32(idx), before: colon)
            put(UInt32(role.rawValue), before: nil)
            return end
        }
    }
}

/// Reads the form of a ``PeerID`` that ``PeerID/description`` has, and no other.
private struct PlainDigits {
    private let text: UnsafeBufferPointer<UInt8>
    private var position = 0

    init(_ text: UnsafeBufferPointer<UInt8>) { self.text = text }

    /// The peer; nil if it is no such text, whatever else it is.
    var peer: PeerID? {
        var rest = self
        var ip: UInt32 = 0
        for octet in 0..<4 {
            let separator = UInt8(ascii: octet < 3 ? "." : ":")
            guard let value = rest.number(digits: 3, max: 255, before: separator) else { return nil }
            ip = ip << 8 | value
        }
        guard let port = rest.number(digits: 5, max: 65_535, before: UInt8(ascii: ":")),
            let idx = rest.number(digits: 9, max: .max, before: UInt8(ascii: ":")),
            let number = rest.number(digits: 1, max: 9, before: nil), let role = PeerID.Role(rawValue: Int32(number))
        else { return nil }
        return PeerID(address: NodeAddress(ip: ip, port: UInt16(port)), idx: Int32(idx), role: role)
    }

    /// One of at most so many digits, with the byte behind it, or the end of the text.
    private mutating func number(digits: Int, max: UInt32, before separator: UInt8?) -> UInt32? {
        var value: UInt32 = 0
        let start = position
        while position < text.count, case let digit = text[position] &- UInt8(ascii: "0"), digit <= 9 {
            guard position - start < digits else { return nil }
            value = value * 10 + UInt32(digit)
            position += 1
        }
        guard position > start, value <= max else { return nil }
        guard let separator else { return position == text.count ? value : nil }
        guard position < text.count, text[position] == separator else { return nil }
        position += 1
        return value
    }
}

/// A group's members: the voters, the voters before them while a change is in its joint stage (§6), and the learners.
///
/// Made seldom and copied often, so a copy is one reference.
public struct Configuration: Equatable, Sendable, CustomStringConvertible {
    private final class Lists: Sendable {
        let peers: [PeerID]
        let oldPeers: [PeerID]
        let learners: [PeerID]

        init(peers: [PeerID], oldPeers: [PeerID], learners: [PeerID]) {
            self.peers = peers
            self.oldPeers = oldPeers
            self.learners = learners
        }
    }

    private let lists: Lists

    /// A configuration; order and duplicates of the arguments do not matter. Whoever stands in `peers` under the role
    /// of a learner is one; whoever is voter and learner is a voter.
    public init(peers: [PeerID], oldPeers: [PeerID] = [], learners: [PeerID] = []) {
        let voters = Configuration.normalized(peers.filter { $0.role != .learner })
        let others = (peers.filter { $0.role == .learner } + learners).filter { !voters.contains($0) }
        lists = Lists(
            peers: voters, oldPeers: Configuration.normalized(oldPeers),
            learners: Configuration.normalized(
                others.map { PeerID(address: $0.address, idx: $0.idx, role: .learner) }))
    }

    /// Voters, ascending.
    public var peers: [PeerID] { lists.peers }
    /// In the joint stage the voters of the old configuration, ascending; otherwise empty.
    public var oldPeers: [PeerID] { lists.oldPeers }
    /// Members without a vote (dissertation §4.2.1), ascending; in the joint stage some may still be old voters.
    public var learners: [PeerID] { lists.learners }

    /// Whether both have the same members in the same lists.
    public static func == (left: Configuration, right: Configuration) -> Bool {
        left.lists === right.lists
            || (left.peers == right.peers && left.oldPeers == right.oldPeers && left.learners == right.learners)
    }

    /// Nobody: the configuration of a replica that has not heard of any.
    public static let empty = Configuration(peers: [])

    private static func normalized(_ peers: [PeerID]) -> [PeerID] {
        var result: [PeerID] = []
        for peer in peers.sorted() where result.last != peer { result.append(peer) }
        return result
    }

    /// Whether there is nobody in it.
    public var isEmpty: Bool { peers.isEmpty }
    /// Whether both majorities count.
    public var isJoint: Bool { !oldPeers.isEmpty }
    /// Whether `peer` votes.
    public func isVoter(_ peer: PeerID) -> Bool { peers.contains(peer) || oldPeers.contains(peer) }
    /// Whether `peer` gets the log.
    public func contains(_ peer: PeerID) -> Bool { isVoter(peer) || learners.contains(peer) }
    /// Whether `peer` votes without holding payloads.
    public func isWitness(_ peer: PeerID) -> Bool {
        (peers.first { $0 == peer } ?? oldPeers.first { $0 == peer })?.role == .witness
    }
    /// Everybody who votes, ascending, each once.
    public var voters: [PeerID] { isJoint ? Configuration.normalized(peers + oldPeers) : peers }
    /// Everybody who gets the log, ascending, each once.
    public var members: [PeerID] {
        isJoint || !learners.isEmpty ? Configuration.normalized(voters + learners) : peers
    }
    /// Voters and learners as they stand in an entry's one list; their roles tell them apart.
    public var listed: [PeerID] { peers + learners }

    /// Whether those for whom `holds` is true are a majority, of both configurations while joint (§6).
    @inlinable public func hasMajority(where holds: (PeerID) -> Bool) -> Bool {
        func majority(of peers: [PeerID]) -> Bool {
            var count = 0
            for peer in peers where holds(peer) { count += 1 }
            return count > peers.count / 2
        }
        return !peers.isEmpty && majority(of: peers) && (oldPeers.isEmpty || majority(of: oldPeers))
    }

    /// `a,b,c` or `a,b,c|old`; learners among the first by their role.
    public var description: String {
        let new = listed.map(\.description).joined(separator: ",")
        return isJoint ? new + "|" + oldPeers.map(\.description).joined(separator: ",") : new
    }
}
