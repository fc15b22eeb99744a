-- 001_words.sql: the words that every table uses, with the rules they carry.
-- Git's names are bytes, not text: git allows any byte but a few, in any encoding or none.
create domain ref_name   as bytea check (octet_length(value) > 0);
create domain ref_target as bytea check (octet_length(value) > 4);  -- hex object id, or 'ref: <name>' as in HEAD
create domain sha256_hex as text  check (value ~ '^[0-9a-f]{64}$');
create domain object_format as text check (value in ('sha1', 'sha256'));
create domain snapshot_number as int check (value > 0);
create domain count_of as bigint check (value >= 0);
