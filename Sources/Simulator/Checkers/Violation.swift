public import RaftCore

/// Something that must never happen and did.
public struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    /// The checker that saw it, or the rule of the simulation that was broken.
    public var checker: String
    /// The group, if it is about one.
    public var group: String?
    /// The entry, if it is about one.
    public var index: LogIndex?
    /// The nodes concerned, by number.
    public var nodes: [Int]
    /// What happened.
    public var facts: String

    /// A violation.
    public init(_ checker: String, group: String? = nil, index: LogIndex? = nil, nodes: [Int] = [], _ facts: String) {
        self.checker = checker
        self.group = group
        self.index = index
        self.nodes = nodes
        self.facts = facts
    }

    /// One line.
    public var description: String {
        var place: [String] = []
        if let group { place.append("group \(group)") }
        if let index { place.append("index \(index)") }
        if !nodes.isEmpty { place.append("nodes " + nodes.map(String.init).joined(separator: ",")) }
        return "\(checker): " + (place.isEmpty ? "" : place.joined(separator: ", ") + ": ") + facts
    }
}

/// A group's member on a node, as the checkers name it.
public struct ReplicaName: Hashable, Sendable {
    /// The group.
    public var group: String
    /// The node's number.
    public var node: Int
    /// The member of `group` on node `node`.
    public init(_ group: String, on node: Int) {
        self.group = group
        self.node = node
    }
}
