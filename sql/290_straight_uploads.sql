-- 290_straight_uploads.sql: pieces that go from a browser straight to the store, past the web process.

-- Links to the store are given for so many bytes of an upload at most: what is sent by them and never counted lies there until
-- the upload is over.
alter table upload add column linked bigint not null default 0 check (linked >= 0);
