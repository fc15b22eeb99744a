-- 167_key_files.sql: a team's identities in the vault, sealed to its recovery keys, so that one that was added
-- later opens what was sealed before.

alter table team
  add column key_file    text,   -- the key in the vault of the newest; null: none was needed yet
  add column key_file_of text;   -- the SHA-256 of whose keys are in it and to whom it is sealed
