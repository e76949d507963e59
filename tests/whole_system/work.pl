# Arithmetic, regular expressions, sorting, hashes, big numbers: everything printed is a function of the text above.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex sha512_hex);
use Math::BigInt;

my $seed = 42;
sub number { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed }

my $sum = 0;
$sum += sqrt($_) * sin($_) / ($_ + 1.5) for 1 .. 20000;
printf "sum %.15g\n", $sum;

my @words = map { join '', map { chr(97 + number() % 26) } 1 .. 3 + number() % 9 } 1 .. 3000;
my $text = join ' ', @words;
my @found = $text =~ /\b(\w*[aeiou](\w)\w{1,4})\b/g;
print "found ", scalar(@found), "\n";
(my $changed = $text) =~ s/([aeiou]+)(\w)/<$2$1>/g;
print "changed ", sha256_hex($changed), "\n";
print "sorted ", sha512_hex(join ',', sort { length $a <=> length $b or $a cmp $b } @words), "\n";

my %count;
$count{$_}++ for split //, $text;
print join(' ', map { "$_=$count{$_}" } sort { $count{$b} <=> $count{$a} or $a cmp $b } keys %count), "\n";

my $factorial = Math::BigInt->new(120)->bfac;
print "factorial $factorial\n";
print "power ", Math::BigInt->new(3)->bmodpow(Math::BigInt->new('12345678901234567890'), Math::BigInt->new('1000000007')), "\n";
print "packed ", unpack('H*', pack('dfNvw', 1.1, -2.5, 0xdeadbeef, 513, 300)), "\n";
