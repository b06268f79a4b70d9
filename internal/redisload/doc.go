// Package redisload gives a redis server work, and knows what must be in it.
//
// The server holds records: JSON texts of about 1 KB that follow from the key's
// number and the record's version, so that each can be checked. [Fill] writes
// version 0 of all. A [Client] then rewrites every tenth key at a set rate, and
// reads any key once a millisecond, over connections of their own, which try
// all the addresses that the server may be at as soon as one falls silent. It
// records the longest gaps between good answers. An answer is good if it is a
// record of the version that was last acknowledged, or of a later one that was
// sent; [Client.Check] demands the same of every key that was ever rewritten.
package redisload
