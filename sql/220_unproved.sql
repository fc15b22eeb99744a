-- 220_unproved.sql: parts of which only the vault says that they replaced others, as a rebuild found them.

-- Whoever can write to the bucket can put a part there that claims this. So nothing that it replaced is deleted until a verification has
-- read everything back and found every object in it.
alter table part add column unproved boolean not null default false;
create index part_unproved on part (repo_id) where unproved;
