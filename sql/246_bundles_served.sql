-- 246_bundles_served.sql: bundles are counted as what git fetched from us, too.
-- bundle: its bytes went through us. bundle-link: a link to the store; its bytes are those of the object, as nobody tells us more.
alter table served drop constraint served_kind_check;
alter table served add constraint served_kind_check check (kind in ('clone', 'fetch', 'archive', 'bundle', 'bundle-link'));
